"""Ends Dagster's drain runs, again and again: terminated, killed, with a killed daemon, under two daemons by mistake.

    python -m proofs.dagster_endings --endings 20 --seed 1

Producers run all the while. Afterwards every message is in exactly one place, and the materializations count exactly
the commits that landed.
"""

import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import psutil

from k2_dagster.devstack.dagster import DagsterParts
from k2_dagster.devstack.process import wait_until
from proofs.accounting import account
from proofs.chaos_feeds import Feeds, profiles_text
from proofs.common import Lake, Proof, conclude, new_lake, new_token, proof_stack, say, scratch_folder
from proofs.dagster_live import everything_landed, live_dagster, mirror_differences, runs, terminate

RATE = 200.0
# Small and frequent commits, so that every ending falls between, into and behind some.
SETTINGS = {
    "K2_INGEST_BATCH_ROWS": "100",
    "K2_INGEST_COMMIT_INTERVAL_SECONDS": "0.2",
    "K2_FRESHNESS_TARGET_SECONDS": "1",
}
# From before the first commit of a run to its end.
LONGEST_WAIT_SECONDS = 4.0
STARTED_SECONDS = 120.0
ENDED_SECONDS = 60.0
# In this order; terminations are what a person does most.
WAYS = ("terminate", "terminate", "kill worker", "terminate", "kill daemon", "terminate", "two daemons")


@click.command()
@click.option("--endings", default=20, show_default=True, help="How many runs are ended.")
@click.option("--seed", default=1, show_default=True)
@click.option("--home", type=click.Path(path_type=Path), help="Use, and keep, the stack of this folder.")
def main(endings: int, seed: int, home: Path | None) -> None:
    """Run the proof."""
    chance = random.Random(seed)
    result = Proof("dagster_endings", conditions={"endings": endings, "seed": seed, "messages_per_second": RATE})
    exchange = f"e{new_token()}"
    with proof_stack(home) as stack, scratch_folder() as folder:
        text = profiles_text({exchange: ("dense", "monotone", "range")})
        lake = new_lake(stack, folder, text, K2_DAGSTER_URI=stack.create_database(f"dagster_{new_token()}"), **SETTINGS)
        with live_dagster(lake) as parts:
            feeds = Feeds(lake, [exchange], RATE, seed)
            feeds.start()
            ways = _end_them(parts, endings, chance)
            feeds.stop()
            for error in feeds.errors:
                result.object_to(f"a producer failed: {error}")
            _judge(result, lake, parts, exchange, ways)
    sys.exit(conclude(result))


def _end_them(parts: DagsterParts, endings: int, chance: random.Random) -> Counter[str]:
    ways: Counter[str] = Counter()
    for number in range(endings):
        way = WAYS[number % len(WAYS)]
        run = _started(parts)
        time.sleep(chance.uniform(0.0, LONGEST_WAIT_SECONDS))  # where in the run it happens is the point
        say(f"ending {number + 1} of {endings}: {way}")
        ways[way] += 1
        if way == "terminate":
            terminate(parts, run["runId"])
        elif way == "kill worker":
            _kill_workers(parts)
        elif way == "kill daemon":
            _kill_daemon(parts)
        else:
            _second_daemon(parts)
        _await_ended(parts, run["runId"])
    return ways


def _started(parts: DagsterParts) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def started() -> bool:
        found[:] = [one for one in runs(parts, "STARTED") if one["jobName"] == "drain"]
        return bool(found)

    if not wait_until(started, STARTED_SECONDS):
        raise TimeoutError(f"no drain run started within {STARTED_SECONDS:.0f} s")
    return found[0]


def _await_ended(parts: DagsterParts, run: str) -> None:
    """Dagster's code server hangs when a run is terminated whose worker was killed a moment ago: let it notice."""
    wait_until(lambda: run not in {one["runId"] for one in runs(parts, "STARTED", "CANCELING")}, ENDED_SECONDS)


def _kill_workers(parts: DagsterParts) -> None:
    server = parts.code_server.find()
    for child in server.children(recursive=True) if server is not None else []:
        if "spawn_main" in " ".join(child.cmdline()):
            child.kill()


def _kill_daemon(parts: DagsterParts) -> None:
    process = parts.daemon.find()
    if process is not None:
        os.kill(process.pid, signal.SIGKILL)
    parts.up()


def _second_daemon(parts: DagsterParts) -> None:
    command = parts.daemon.command()
    with parts.daemon.log.open("ab") as log:
        second = psutil.Popen(
            list(command.arguments), env={**os.environ, **command.environment}, stdout=log, stderr=log
        )
    try:
        for _ in range(2):
            _started(parts)
            time.sleep(LONGEST_WAIT_SECONDS)  # both launch and mirror meanwhile
    finally:
        second.terminate()
        second.wait(ENDED_SECONDS)


def _judge(result: Proof, lake: Lake, parts: DagsterParts, exchange: str, ways: Counter[str]) -> None:
    if not everything_landed(lake, [exchange]):
        result.object_to("messages still wait")
    found = account(lake, [exchange])
    for example in found.examples:
        result.object_to(example)
    result.expect("every message in one place", found.clean, True)
    for difference in mirror_differences(lake, parts):
        result.object_to(f"materializations: {difference}")
    states = Counter(str(one["status"]) for one in runs(parts) if one["jobName"] == "drain")
    result.counts |= {"ways": ways, "runs": states, **found.counts()}


if __name__ == "__main__":
    main()
