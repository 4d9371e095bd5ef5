"""Many exchanges with a few messages each: how many runs Dagster starts, and whether everything lands in time.

    python -m proofs.dagster_trickle --exchanges 20 --minutes 10

Holds when there are fewer than 20 runs a minute, of all kinds, and every message is in exactly one place.
"""

import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from k2_dagster.devstack.dagster import DagsterParts
from k2_dagster.devstack.stack import Stack
from proofs.accounting import account
from proofs.chaos_feeds import Feeds, profiles_text
from proofs.common import Proof, conclude, new_lake, new_token, proof_stack, say, scratch_folder
from proofs.dagster_live import everything_landed, live_dagster, mirror_differences, runs

RUNS_PER_MINUTE_LIMIT = 20.0
# Messages per second of one exchange, all datasets together.
RATE = 2.0
# Between two lines of progress.
PROGRESS_SECONDS = 30.0


@click.command()
@click.option("--exchanges", default=20, show_default=True)
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--home", type=click.Path(path_type=Path), help="Use, and keep, the stack of this folder.")
def main(exchanges: int, minutes: float, seed: int, home: Path | None) -> None:
    """Run the proof."""
    with proof_stack(home) as stack, scratch_folder() as folder:
        result = run(stack, folder, exchanges=exchanges, minutes=minutes, seed=seed)
    sys.exit(conclude(result))


def run(
    stack: Stack, folder: Path, *, exchanges: int, minutes: float, seed: int, compare_mirror: bool = True, **own: str
) -> Proof:
    """The proof on a running stack, with settings of its `own` by their environment names. The mirror reports once a
    minute; without `compare_mirror` it is not waited for."""
    conditions = {"exchanges": exchanges, "minutes": minutes, "seed": seed, "messages_per_second_each": RATE} | own
    result = Proof("dagster_trickle", conditions=conditions)
    token = new_token()
    names = [f"t{token}{number}" for number in range(exchanges)]
    text = profiles_text(dict.fromkeys(names, ("dense", "monotone", "range")), partitions=1)
    lake = new_lake(stack, folder, text, K2_DAGSTER_URI=stack.create_database(f"dagster_{token}"), **own)
    with live_dagster(lake) as parts:
        feeds = Feeds(lake, names, RATE, seed)
        feeds.start()
        began = time.time()
        _watch(parts, began, minutes * 60)
        made = [one for one in runs(parts) if one["creationTime"] <= began + minutes * 60]
        feeds.stop()
        for error in feeds.errors:
            result.object_to(f"a producer failed: {error}")
        if not everything_landed(lake, names):
            result.object_to("messages still wait")
        for difference in mirror_differences(lake, parts) if compare_mirror else ():
            result.object_to(f"materializations: {difference}")
    found = account(lake, names)
    result.expect("every message in one place", found.clean, True)
    _judge(result, made, minutes)
    result.counts |= found.counts()
    return result


def _judge(result: Proof, made: list[dict[str, Any]], minutes: float) -> None:
    per_minute = len(made) / minutes
    if per_minute >= RUNS_PER_MINUTE_LIMIT:
        result.object_to(f"{per_minute:.1f} runs a minute, fewer than {RUNS_PER_MINUTE_LIMIT:.0f} were promised")
    seconds = [one["endTime"] - one["startTime"] for one in made if one["endTime"] and one["startTime"]]
    result.counts |= {
        "runs_per_minute": round(per_minute, 2),
        "margin": round(1 - per_minute / RUNS_PER_MINUTE_LIMIT, 3),
        "runs": Counter(f"{one['jobName']} {one['status']}" for one in made),
        "run_seconds_median": round(statistics.median(seconds), 2) if seconds else None,
    }


def _watch(parts: DagsterParts, began: float, seconds: float) -> None:
    while (left := began + seconds - time.time()) > 0:
        time.sleep(min(PROGRESS_SECONDS, left))  # the time itself is what is measured
        say(f"{len(runs(parts))} runs after {(time.time() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
