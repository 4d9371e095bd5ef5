"""Ends Dagster's drain runs, again and again: terminated twenty times in a row, then killed, with a killed daemon, and
under two daemons by mistake.

    python -m proofs.dagster_endings --terminations 20 --others 6 --seed 1

A backlog is there from the start and producers run all the while, so that every ending falls into the work. Afterwards
each terminated run is CANCELED and each killed one FAILURE, every message is in exactly one place, and the
materializations count exactly the commits that landed.
"""

import itertools
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import psutil
from sqlalchemy import select

from k2_dagster.devstack.dagster import DagsterParts
from k2_dagster.devstack.process import wait_until
from k2_dagster.devstack.stack import Stack
from k2_dagster.feeds.simulator.feed import FeedParameters
from k2_dagster.feeds.simulator.simulation import Simulation
from k2_dagster.settings import load_settings
from k2_dagster.state.database import Database
from k2_dagster.state.tables import commits
from proofs.accounting import account
from proofs.chaos_feeds import Feeds, profiles_text
from proofs.common import Lake, Proof, conclude, new_lake, new_token, proof_stack, say, scratch_folder
from proofs.dagster_live import (
    everything_landed,
    live_dagster,
    mirror_differences,
    run_status,
    runs,
    terminate,
    worker,
)

RATE = 100.0
# Small and frequent commits, so that every ending falls between, into and behind some.
SETTINGS = {
    "K2_INGEST_BATCH_ROWS": "50",
    "K2_INGEST_COMMIT_INTERVAL_SECONDS": "0.2",
    "K2_FRESHNESS_TARGET_SECONDS": "1",
}
# What a run that is to be ended must not have landed by then: 120 commits, which take several seconds.
BACKLOG_PER_ENDING = 6_000
# From the first commit of a run to its end.
LONGEST_WAIT_SECONDS = 1.5
STARTED_SECONDS = 120.0
ENDED_SECONDS = 60.0
# A run may end by itself in the moment before; the row of terminations then begins anew.
TRIES_PER_TERMINATION = 3
# After the row of terminations, in this order again and again.
OTHER_WAYS = ("kill worker", "kill daemon", "two daemons")


@dataclass
class Endings:
    """What was done, and how each run that was ended is to be called afterwards."""

    parts: DagsterParts
    lake: Lake
    chance: random.Random
    ways: Counter[str] = field(default_factory=Counter)
    expected: dict[str, str] = field(default_factory=dict)
    in_a_row: int = 0


@click.command()
@click.option("--terminations", default=20, show_default=True, help="How many runs are terminated in a row.")
@click.option("--others", default=6, show_default=True, help="How many endings of other kinds follow.")
@click.option("--seed", default=1, show_default=True)
@click.option("--home", type=click.Path(path_type=Path), help="Use, and keep, the stack of this folder.")
def main(terminations: int, others: int, seed: int, home: Path | None) -> None:
    """Run the proof."""
    with proof_stack(home) as stack, scratch_folder() as folder:
        result = run(stack, folder, terminations=terminations, others=others, seed=seed)
    sys.exit(conclude(result))


def run(stack: Stack, folder: Path, *, terminations: int, others: int, seed: int, compare_mirror: bool = True) -> Proof:
    """The proof on a running stack. The mirror reports once a minute; without `compare_mirror` it is not waited for."""
    conditions = {"terminations": terminations, "others": others, "seed": seed, "messages_per_second": RATE}
    result = Proof("dagster_endings", conditions=conditions)
    exchange = f"e{new_token()}"
    text = profiles_text({exchange: ("dense", "monotone", "range")})
    lake = new_lake(stack, folder, text, K2_DAGSTER_URI=stack.create_database(f"dagster_{new_token()}"), **SETTINGS)
    _backlog(lake, exchange, BACKLOG_PER_ENDING * (terminations + others), seed)
    with live_dagster(lake) as parts:
        feeds = Feeds(lake, [exchange], RATE, seed + 1)
        feeds.start()
        endings = Endings(parts, lake, random.Random(seed))
        try:
            _terminate_in_a_row(endings, terminations)
            for number, way in enumerate(itertools.islice(itertools.cycle(OTHER_WAYS), others), start=1):
                say(f"ending {number} of {others}: {way}")
                _end_otherwise(endings, way)
        finally:
            feeds.stop()
    for error in feeds.errors:
        result.object_to(f"a producer failed: {error}")
    result.expect("terminations in a row", endings.in_a_row, terminations)
    # Dagster itself is ended too, with whatever runs; the rest lands in ordinary batches
    with live_dagster(_ordinary(lake)) as endings.parts:
        _judge(result, endings, exchange, compare_mirror)
    return result


def _ordinary(lake: Lake) -> Lake:
    environment = {name: value for name, value in lake.environment.items() if name not in SETTINGS}
    return replace(lake, environment=environment, settings=load_settings(environment))


def _backlog(lake: Lake, exchange: str, messages: int, seed: int) -> None:
    rate = 1_000.0
    seconds = messages / rate
    start = time.time_ns() // 1000 - int(seconds * 1e6)
    parameters = FeedParameters(exchange, 20, rate, seed, start, seconds)
    Simulation(lake.settings, lake.profiles, parameters, flat_out=True, stop=threading.Event()).run()
    say(f"{messages:,} messages wait")


def _terminate_in_a_row(endings: Endings, wanted: int) -> None:
    for _ in range(wanted * TRIES_PER_TERMINATION):
        if endings.in_a_row == wanted:
            return
        ended = _at_work(endings)
        terminate(endings.parts, ended)
        status = _await_ended(endings.parts, ended)
        if status == "SUCCESS":
            say(f"run {ended[:8]} had just ended by itself: the row begins anew")
            endings.in_a_row = 0
            continue
        endings.in_a_row += 1
        endings.ways["terminate"] += 1
        endings.expected[ended] = "CANCELED"
        say(f"termination {endings.in_a_row} of {wanted} in a row: {status}")


def _end_otherwise(endings: Endings, way: str) -> None:
    ended = _at_work(endings)
    if way == "kill worker":
        process = worker(endings.parts, ended)
        if process is not None:
            process.kill()
            endings.expected[ended] = "FAILURE"
    elif way == "kill daemon":
        _kill_daemon(endings.parts)
    else:
        _second_daemon(endings)
    if endings.expected.get(ended) and _await_ended(endings.parts, ended) == "SUCCESS":
        say(f"run {ended[:8]} had just ended by itself")
        del endings.expected[ended]
        return
    endings.ways[way] += 1


def _at_work(endings: Endings) -> str:
    """A drain run that has started and committed, some random time later."""
    found: list[str] = []

    def committed() -> bool:
        started = [str(one["runId"]) for one in runs(endings.parts, "STARTED") if one["jobName"] == "drain"]
        found[:] = [one for one in started if _has_committed(endings.lake, one)]
        return bool(found)

    if not wait_until(committed, STARTED_SECONDS):
        raise TimeoutError(f"no drain run committed within {STARTED_SECONDS:.0f} s")
    time.sleep(endings.chance.uniform(0.0, LONGEST_WAIT_SECONDS))  # where in the run it happens is the point
    return found[0]


def _has_committed(lake: Lake, run_id: str) -> bool:
    database = Database(lake.settings)
    try:
        with database.begin() as connection:
            return (
                connection.execute(select(commits.c.id).where(commits.c.run_id == run_id).limit(1)).first() is not None
            )
    finally:
        database.close()


def _await_ended(parts: DagsterParts, run_id: str) -> str | None:
    """How the run ended. Dagster's code server hangs when a run is terminated whose worker was killed a moment ago:
    let it notice."""
    wait_until(lambda: run_status(parts, run_id) not in ("STARTED", "CANCELING"), ENDED_SECONDS)
    return run_status(parts, run_id)


def _kill_daemon(parts: DagsterParts) -> None:
    process = parts.daemon.find()
    if process is not None:
        os.kill(process.pid, signal.SIGKILL)
    parts.up()


def _second_daemon(endings: Endings) -> None:
    command = endings.parts.daemon.command()
    with endings.parts.daemon.log.open("ab") as log:
        second = psutil.Popen(
            list(command.arguments), env={**os.environ, **command.environment}, stdout=log, stderr=log
        )
    try:
        # both launch and mirror meanwhile
        ended = _at_work(endings)
        terminate(endings.parts, ended)
        _await_ended(endings.parts, ended)
        _at_work(endings)
    finally:
        second.terminate()
        second.wait(ENDED_SECONDS)


def _judge(result: Proof, endings: Endings, exchange: str, compare_mirror: bool) -> None:
    lake, parts = endings.lake, endings.parts
    if not everything_landed(lake, [exchange]):
        result.object_to("messages still wait")
    for run_id, status in endings.expected.items():
        result.expect(f"state of run {run_id}", run_status(parts, run_id), status)
    found = account(lake, [exchange])
    for example in found.examples:
        result.object_to(example)
    result.expect("every message in one place", found.clean, True)
    for difference in mirror_differences(lake, parts) if compare_mirror else ():
        result.object_to(f"materializations: {difference}")
    states: Counter[Any] = Counter(str(one["status"]) for one in runs(parts) if one["jobName"] == "drain")
    ended = Counter(endings.expected.values())
    result.counts |= {"ways": endings.ways, "ended": ended, "runs": states, **found.counts()}


if __name__ == "__main__":
    main()
