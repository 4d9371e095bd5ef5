"""Measure `memory`: the most that the full path keeps resident, on a backlog and while it keeps up."""

import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from typing import IO, Any

from k2_dagster.devstack.process import Progress, wait_until
from k2_dagster.schemas.datasets import table_name
from k2_dagster.schemas.ticks import TICKS
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.totals import read_totals
from proofs.bench.ingest import NATIVE, PLAIN, SIDES, run_once, topic_facts
from proofs.bench.results import Measure, conditions
from proofs.bench.setting import Bench, Topics
from proofs.bench.sides import environment_of, peak_rss_megabytes

FULL_RATE_MEGABYTES = 900
PACED_MEGABYTES = 400
PACED_MESSAGES_PER_SECOND = 100_000
# Behind the last message: a batch waits for its commit interval, and a slow machine catches up.
CATCH_UP_SECONDS = 120.0
STOP_SECONDS = 30.0


def measure_memory(bench: Bench, messages: int, progress: Progress) -> list[Measure]:
    """Peak memory of the full path on a backlog, and of `k2 ingest` behind a publisher of 100,000 rows per second."""
    topics = bench.topics(messages, seed=2)
    out = []
    for name in (PLAIN, NATIVE):
        peak = run_once(bench, topics, name).peak_rss_megabytes
        out.append(_bounded(f"memory: peak RSS at full rate, {name}", peak, FULL_RATE_MEGABYTES, topics))
        progress(f"{out[-1].measure}: {peak:,.0f} MB")
    for name in (PLAIN, NATIVE):
        peak = _paced(bench, messages, SIDES[name][1])
        out.append(_bounded(f"memory: peak RSS at 100,000 rows/s, {name}", peak, PACED_MEGABYTES, topics))
        progress(f"{out[-1].measure}: {peak:,.0f} MB")
    return out


def _bounded(name: str, peak_megabytes: float, most: int, topics: Topics) -> Measure:
    facts = conditions(**topic_facts(topics))
    return Measure(name, peak_megabytes, "MB", None, None, f"<= {most}", peak_megabytes <= most, facts)


def _paced(bench: Bench, messages: int, reader: str) -> float:
    """Peak memory of the process `k2 ingest`, from its start to the last commit, behind a publisher."""
    topics = bench.topics(0, seed=3)
    with bench.lake(topics.profiles, ingest_reader=reader) as settings, tempfile.TemporaryFile("w+") as log:
        process = _start(settings, topics.exchange, log)
        try:
            _publish(settings, topics, messages)
            _wait(settings, process, messages, log)
            return peak_rss_megabytes(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_SECONDS)


def _start(settings: Settings, exchange: str, log: IO[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "k2_dagster.cli", "ingest", "--exchange", exchange],
        env=environment_of(settings),
        stdout=log,
        stderr=log,
        text=True,
    )


def _publish(settings: Settings, topics: Topics, messages: int) -> None:
    """In a process of its own, so that its interpreter lock is not ours."""
    arguments: list[Any] = [settings.kafka_bootstrap_servers, settings.schema_registry_url, topics.exchange, messages]
    subprocess.run(
        [sys.executable, "-m", "proofs.bench.workload", *map(str, arguments), str(PACED_MESSAGES_PER_SECOND)],
        check=True,
    )


def _wait(settings: Settings, process: "subprocess.Popen[str]", messages: int, log: IO[str]) -> None:
    """Until every message is in the tables or the quarantine. Raises RuntimeError when they do not come."""
    with closing(Database(settings)) as database:
        wait_until(lambda: process.poll() is not None or _landed(database) >= messages, CATCH_UP_SECONDS)
        landed = _landed(database)
    if landed < messages:
        log.seek(0)
        raise RuntimeError(f"k2 ingest landed {landed} of {messages} messages:\n{log.read()[-4000:]}")


def _landed(database: Database) -> int:
    """Messages behind the fence."""
    return sum(one.consumed for one in read_totals(database, table_name(TICKS.name)).values())
