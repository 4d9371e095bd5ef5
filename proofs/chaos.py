"""Kills ingest at every dangerous point, and the parts it stands on, while producers run; then counts everything.

    python -m proofs.chaos --kills 300 --seed 1 [--s3]

Afterwards every message is in exactly one place, and tables and coverage ledger equal those of a second lake that was
filled from the same topics without a disturbance. One of the exchanges halts at critical gaps, and somebody lets it go
on each time. Two deterministic cases follow: a zombie that wakes up behind another
writer, and a commit whose answer is lost.
"""

import platform
import queue
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import click

from k2_dagster.devstack.stack import Stack
from k2_dagster.devstack.state import load_state
from k2_dagster.errors import TransientError
from k2_dagster.state.breakers import acknowledge_breaker, list_breakers
from k2_dagster.state.database import Database
from proofs.accounting import account_twice
from proofs.casualties import Outages, Ring, Tally
from proofs.chaos_feeds import Feeds, profiles_text
from proofs.common import Lake, Proof, conclude, new_lake, new_token, proof_stack, say, scratch_folder
from proofs.comparing import compare_lakes, ledger
from proofs.herd import Herd, herd
from proofs.one_commit import one_commit_cases

# Small and frequent commits, so that a life of a second passes every point.
QUICK_COMMITS = {"K2_INGEST_BATCH_ROWS": "2000", "K2_INGEST_COMMIT_INTERVAL_SECONDS": "0.2"}
# Worker kills between two kills of a part of the stack.
KILLS_BETWEEN_OUTAGES = 12
POLL_SECONDS = 0.05
# Bounds on the whole: the slowest step is a Kafka that starts again on two busy cores.
SECONDS_PER_KILL = 20.0
DRAIN_TIMEOUT_SECONDS = 300.0
# From this many kills on, each point and part must have had its turn.
COVERING_KILLS = 40
# How soon a partition that halted goes on, while workers are killed.
ACKNOWLEDGE_SECONDS = 1.0
# What a run of COVERING_KILLS leaves in the ledger.
LEDGER_TABLES = ("gaps", "coverage", "holes", "resets", "connections", "breakers", "holds")


def rage(kills: int, rings: list[Ring], outages: Outages, workers: Herd, tally: Tally, proof: Proof) -> None:
    """Kill until the number is reached, and each point and part has had its turn where there are enough for that."""
    deadline = time.monotonic() + kills * SECONDS_PER_KILL
    next_outage, said, next_look_at_breakers = KILLS_BETWEEN_OUTAGES // 2, 0, 0.0
    while (tally.kills < kills or _spared(tally, outages, kills)) and not proof.findings:
        _look(rings, proof)
        for ring in rings:
            ring.begin(only_spared=tally.kills >= kills)
        if time.monotonic() > next_look_at_breakers:
            next_look_at_breakers = time.monotonic() + ACKNOWLEDGE_SECONDS
            acknowledge_all(rings[0].lake)
        if tally.kills >= next_outage:
            outages.begin()
            next_outage += KILLS_BETWEEN_OUTAGES
        if tally.kills >= said + 10:
            said = tally.kills
            say(f"{tally.kills} of {kills} kills, {tally.parts.total()} outages, errors {dict(tally.errors)}")
        if time.monotonic() > deadline:
            left = ", ".join(_spared(tally, outages, kills))
            proof.object_to(f"{tally.kills} of {kills} kills in {kills * SECONDS_PER_KILL:.0f} s, and none of: {left}")
        _await_news(workers)
    outages.end()
    while not all(ring.empty for ring in rings):
        _look(rings, proof, last=True)
        _await_news(workers)
    for error in outages.errors:
        proof.object_to(error)


def _look(rings: list[Ring], proof: Proof, *, last: bool = False) -> None:
    for ring in rings:
        for trouble in ring.look(last=last):
            proof.object_to(trouble)


def _await_news(workers: Herd) -> None:
    try:
        workers.news.get(timeout=POLL_SECONDS)
    except queue.Empty:
        return


def acknowledge_all(lake: Lake) -> int:
    """Let every halted partition go on; returns how many did. A database that is away is asked again later."""
    database = Database(lake.settings)
    try:
        found = list_breakers(database, only_open=True)
        for one in found:
            acknowledge_breaker(database, int(one["id"]), acknowledged_by="proof", reason="goes on")
    except TransientError:
        return 0
    finally:
        database.close()
    return len(found)


def drain_to_the_end(workers: Herd, lake: Lake, exchanges: list[str], proof: Proof) -> None:
    """An undisturbed worker per exchange, until all is in the tables; again, as long as partitions halt."""
    while True:
        _drain_once(workers, lake, exchanges, proof)
        if proof.findings or not acknowledge_all(lake):
            return


def _drain_once(workers: Herd, lake: Lake, exchanges: list[str], proof: Proof) -> None:
    started = [workers.start(one, lake.environment, driver="once") for one in exchanges]
    for worker in started:
        if not worker.ended.wait(DRAIN_TIMEOUT_SECONDS):
            proof.object_to(f"{worker.job.exchange} was not drained in {DRAIN_TIMEOUT_SECONDS:.0f} s")
            worker.send(signal.SIGKILL)
            continue
        report = worker.report
        if report is None or report.error:
            proof.object_to(f"the undisturbed drain of {worker.job.exchange} failed: {report}")


def settle_accounts(workers: Herd, stack: Stack, lake: Lake, exchanges: list[str], folder: Path, proof: Proof) -> None:
    """Drain, count every message, and compare with an undisturbed second lake."""
    drain_to_the_end(workers, lake, exchanges, proof)
    account_twice(lake, exchanges, proof)
    say(f"accounts: {proof.counts}")
    text = lake.settings.profiles.read_text() if lake.settings.profiles else None
    other = new_lake(stack, folder, text, exchanges)
    drain_to_the_end(workers, other, exchanges, proof)
    differences = compare_lakes(lake, other, exchanges)
    proof.counts["differences_to_undisturbed"] = len(differences)
    for difference in differences:
        proof.object_to(difference)
    rows = Counter(row[0] for one in exchanges for row in ledger(lake, one).elements())
    proof.counts["ledger_rows"] = dict(sorted(rows.items()))


def run(stack: Stack, folder: Path, kills: int, seed: int, rate: float) -> Proof:
    """The whole proof on a running stack."""
    proof, tally, chance, token = Proof("chaos"), Tally(), random.Random(seed), new_token()
    domains = {
        f"chaos_a_{token}": ("dense", "channel", "range"),
        f"chaos_b_{token}": ("none", "monotone", "linked"),
    }
    exchanges = list(domains)
    lake = new_lake(stack, folder, profiles_text(domains, halting=exchanges[:1]), exchanges, **QUICK_COMMITS)
    feeds = Feeds(lake, exchanges, rate, seed)
    outages = Outages(stack, chance, tally)
    with herd(folder / "workers") as workers:
        feeds.start()
        try:
            rings = [Ring(workers, lake, one, random.Random(chance.random()), tally) for one in exchanges]
            rage(kills, rings, outages, workers, tally, proof)
        finally:
            published = feeds.stop()
        for error in feeds.errors:
            proof.object_to(error)
        say(f"{tally.kills} kills done, {sum(published.values())} messages published; now to the end")
        settle_accounts(workers, stack, lake, exchanges, folder, proof)
        for table in LEDGER_TABLES if kills >= COVERING_KILLS else ():
            if not proof.counts["ledger_rows"].get(table):
                proof.object_to(f"the ledger has no {table}: nothing was compared")
        proof.expect("messages in the topics", proof.counts["messages"], sum(published.values()))
        one_commit_cases(stack, folder, workers, seed, proof)
    proof.counts |= {
        "kills": tally.kills,
        "kills_by_point": dict(sorted(tally.by_point.items())),
        "parts_killed": dict(sorted(tally.parts.items())),
        "workers": tally.lives,
        "overlapping_writers": tally.overlaps,
        "errors_that_workers_ended_with": dict(tally.errors),
    }
    state = load_state(stack.home)
    proof.conditions |= {
        "seed": seed,
        "messages_per_second": rate * len(exchanges),
        "faults": "random, all but schema changes",
        "warehouse": state.s3_program if state is not None and state.s3 else "folder",
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    return proof


def _spared(tally: Tally, outages: Outages, kills: int) -> list[str]:
    """The points and parts that have not had their turn; none when there are too few kills for all."""
    if kills < COVERING_KILLS:
        return []
    outside = [] if tally.by_point["from outside"] else ["from outside"]
    return [*tally.spared_points(), *outside, *(one for one in outages.parts if not tally.parts[one])]


@click.command()
@click.option("--kills", default=40, show_default=True, help="Workers to kill.")
@click.option("--seed", default=1, show_default=True, help="Of every choice; the machine's timing stays its own.")
@click.option("--rate", default=400.0, show_default=True, help="Messages per second and exchange.")
@click.option("--s3", is_flag=True, help="Warehouse on a real S3 process, which is killed too.")
@click.option("--home", type=click.Path(path_type=Path), help="Use the stack of this folder and leave it running.")
def main(kills: int, seed: int, rate: float, s3: bool, home: Path | None) -> None:
    """Prove that nothing is lost and nothing doubled, whatever dies."""
    with proof_stack(home, s3=s3 if home is None else None) as stack, scratch_folder() as folder:
        proof = run(stack, folder, kills, seed, rate)
    sys.exit(conclude(proof))


if __name__ == "__main__":
    main()
