"""Deterministic cases of the chaos proof: whatever two writers or a lost answer do, one commit lands per range.

zombie        a writer is stopped at a point, another one lands the same range, then the first wakes up
lost answer   the commit lands, and the answer does not arrive
"""

import signal
import threading
import time
from collections import Counter
from pathlib import Path

from sqlalchemy import select, text

from k2_dagster.devstack.stack import Stack
from k2_dagster.feeds.simulator.feed import FeedParameters
from k2_dagster.feeds.simulator.simulation import Simulation
from k2_dagster.lake.fence import ingest_lineage
from k2_dagster.state.database import Database
from k2_dagster.state.tables import commits
from proofs.accounting import account_twice, opened
from proofs.chaos_feeds import profiles_text
from proofs.common import Lake, Proof, new_lake, new_token, say
from proofs.herd import Herd, Worker
from proofs.lossy import lossy_postgres

# Where a zombie can be: at the points until its commit has landed. At the last two it holds the table's lock.
ZOMBIE_POINTS = ("batch.consumed", "files.written", "state.written", "commit.before", "commit.landed")
LOCK_HOLDERS = ("commit.before", "commit.landed")
MESSAGES_PER_SECOND = 1_000.0
FEED_SECONDS = 4.0
SYMBOLS = 10
WAIT_SECONDS = 120.0
# Of the first stream: to its taking over of the data table and of quarantine, and to its first append.
ANSWERS_LOST = 3


def one_commit_cases(stack: Stack, folder: Path, workers: Herd, seed: int, proof: Proof) -> None:
    """Run every case; findings and the number of cases go to the proof."""
    for point in ZOMBIE_POINTS:
        say(f"a zombie at {point}")
        _zombie(stack, folder, workers, seed, point, proof)
    say("an answer that is lost inside the writer, and one that the network loses")
    _lost_in_the_writer(stack, folder, workers, seed, proof)
    _lost_on_the_way(stack, folder, workers, seed, proof)
    proof.counts |= {"zombies": len(ZOMBIE_POINTS), "lost_answers": 2}


def _zombie(stack: Stack, folder: Path, workers: Herd, seed: int, point: str, proof: Proof) -> None:
    lake, exchange = _filled(stack, folder, seed)
    zombie = workers.start(exchange, lake.environment, driver="once", action="stop", point=point)
    if not zombie.stopped.wait(WAIT_SECONDS):
        proof.object_to(f"the writer never came to {point}")
        return
    if point in LOCK_HOLDERS:
        # As when its machine loses the network: PostgreSQL frees the lock once it takes the connection for dead
        _end_connections(lake)
    other = workers.start(exchange, lake.environment, driver="once")
    _await(other, f"the second writer beside a zombie at {point}", proof)
    zombie.send(signal.SIGCONT)
    # its connections may be gone: then it ends with a transient error, and whoever comes next goes on
    _await(zombie, f"the zombie from {point}", proof, may_fail=True)
    _check(workers, lake, exchange, f"zombie at {point}", proof)


def _lost_in_the_writer(stack: Stack, folder: Path, workers: Herd, seed: int, proof: Proof) -> None:
    lake, exchange = _filled(stack, folder, seed)
    worker = workers.start(
        exchange, lake.environment, driver="once", action="lose_answer", point="commit.landed", reach=2
    )
    _await(worker, "the writer whose answer was lost", proof)
    _check(workers, lake, exchange, "lost answer", proof)


def _lost_on_the_way(stack: Stack, folder: Path, workers: Herd, seed: int, proof: Proof) -> None:
    lake, exchange = _filled(stack, folder, seed)
    with lossy_postgres(lake.environment["K2_CATALOG_URI"], ANSWERS_LOST) as proxy:
        environment = lake.environment | {"K2_CATALOG_URI": proxy.uri}
        worker = workers.start(exchange, environment, driver="once")
        _await(worker, "the writer whose connection lost an answer", proof)
        proof.expect("answers lost on the way", proxy.cut, ANSWERS_LOST)
    _check(workers, lake, exchange, "answer lost on the way", proof)


def _filled(stack: Stack, folder: Path, seed: int) -> tuple[Lake, str]:
    exchange = f"one_{new_token()}"
    text_ = profiles_text({exchange: ("dense", "monotone", "range")})
    lake = new_lake(stack, folder, text_, [exchange], K2_INGEST_BATCH_ROWS="1000")
    start = time.time_ns() // 1000 - int(FEED_SECONDS * 1_000_000)
    parameters = FeedParameters(exchange, SYMBOLS, MESSAGES_PER_SECOND, seed, start, FEED_SECONDS)
    Simulation(lake.settings, lake.profiles, parameters, flat_out=True, stop=threading.Event()).run()
    return lake, exchange


def _end_connections(lake: Lake) -> None:
    database = Database(lake.settings)
    query = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> "
    with database.begin() as connection:
        connection.execute(text(query + "pg_backend_pid()"))
    database.close()


def _await(worker: Worker, who: str, proof: Proof, *, may_fail: bool = False) -> None:
    if not worker.ended.wait(WAIT_SECONDS):
        proof.object_to(f"{who} did not end in {WAIT_SECONDS:.0f} s")
        worker.send(signal.SIGKILL)
        return
    report = worker.report
    if report is None:
        proof.object_to(f"{who} died of signal {worker.signal}")
    elif report.error and not (may_fail and report.transient):
        proof.object_to(f"{who} ended with {report.error}: {report.text}")


def _check(workers: Herd, lake: Lake, exchange: str, case: str, proof: Proof) -> None:
    """A last writer finds nothing undone that matters; every range landed once, every message is in one place."""
    _await(workers.start(exchange, lake.environment, driver="once"), f"{case}: the last writer", proof)
    accounts = Proof(case)
    account_twice(lake, [exchange], accounts, f"{case}: ")
    proof.findings += accounts.findings
    database = Database(lake.settings)
    with database.begin() as connection:
        rows = connection.execute(select(commits)).all()
    database.close()
    starts = Counter(
        (row.table_name, one["topic"], one["partition"], one["start"]) for row in rows for one in row.ranges
    )
    for place, times in starts.items():
        if times > 1:
            proof.object_to(f"{case}: {times} commits begin at {place}")
    with opened(lake) as catalog:
        for dataset in lake.profiles.exchange(exchange).datasets:
            table = catalog.load_table(f"market_data.{dataset}")
            landed = [one.commit_id for one in ingest_lineage(table.metadata)]
            settled = {row.id for row in rows if row.table_name == f"market_data.{dataset}"}
            proof.expect(f"{case}: {dataset} commits in the table and in the log", set(landed), settled)
            proof.expect(f"{case}: {dataset} snapshots per commit", len(landed), len(set(landed)))
