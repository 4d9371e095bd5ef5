"""Drain runs in Dagster itself: daemon, code server and run workers as processes on the real stack.

What must hold after each of them: everything that was published is in a table or in quarantine, once.
"""

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import func, select

from k2_dagster.devstack.dagster import DagsterParts
from k2_dagster.devstack.process import wait_until
from k2_dagster.jobs import drain_run_config
from k2_dagster.resources.lake import partition_files
from k2_dagster.settings import Settings
from k2_dagster.state.tables import commits
from tests.dagster_support import Market, make_market

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

# A sensor tick, the start of a run and its imports take 10 s on an idle machine, six times that on a busy one.
LANDED_SECONDS = 120.0
MESSAGES = 3_000

LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUNS = """query($states: [RunStatus!]) { runsOrError(filter: {statuses: $states}) {
    ... on Runs { results { runId status tags { key value } } } } }"""
TERMINATE = "mutation($run: String!) { terminateRun(runId: $run) { __typename } }"


@pytest.fixture
def live(settings: Settings, tmp_path: Path) -> Iterator[tuple[Market, DagsterParts]]:
    """A fresh exchange with Dagster running on it."""
    hasty = settings.model_copy(
        update={"freshness_target_seconds": 1.0, "ingest_batch_rows": 500, "ingest_commit_interval_seconds": 0.2}
    )
    market = make_market(hasty, tmp_path)
    parts = DagsterParts(hasty.home, market.settings)
    try:
        parts.up()
        yield market, parts
    finally:
        parts.down(purge=True)
        market.platform.close()


def test_everything_lands_once_through_kills_terminations_and_two_daemons(
    live: tuple[Market, DagsterParts],
) -> None:
    market, parts = live
    published = market.publish(market.exchange, MESSAGES)
    _await_landed(market)
    _assert_once(market, published)

    # two runs for the same exchange at once, behind the sensor's back: without its tag nothing orders them
    published += market.publish(market.exchange, MESSAGES, seed=8)
    for _ in range(2):
        _launch(parts, market.exchange)
    _await_landed(market)
    _assert_once(market, published)

    # killed and terminated in the middle (proofs/dagster_endings.py does it twenty times)
    for turn in range(2):
        published += market.publish(market.exchange, MESSAGES, seed=20 + turn)
        run = _await_started(parts)
        if turn % 2:
            parts.graphql(TERMINATE, {"run": run})
        else:
            _kill_run_workers(parts)
        _await_ended(parts, run)
    _await_landed(market)
    _assert_once(market, published)

    # a killed daemon, and then two of them by mistake
    os.kill(_pid(parts), signal.SIGKILL)
    published += market.publish(market.exchange, MESSAGES, seed=30)
    parts.up()
    second = psutil.Popen(list(parts.daemon.command().arguments), env={**os.environ, **parts.environment()})
    try:
        published += market.publish(market.exchange, MESSAGES, seed=31)
        _await_landed(market)
    finally:
        second.terminate()
        second.wait(30)
    _assert_once(market, published)
    assert 0 < _mirrored(parts) <= _committed(market)


def _launch(parts: DagsterParts, exchange: str) -> None:
    selector = {"repositoryName": "__repository__", "repositoryLocationName": "k2", "jobName": "drain"}
    answer = parts.graphql(LAUNCH, {"params": {"selector": selector, "runConfigData": drain_run_config(exchange)}})
    assert answer["launchRun"]["__typename"] == "LaunchRunSuccess", answer


def _await_landed(market: Market) -> None:
    def landed() -> bool:
        report = market.platform.lag.read([market.exchange])
        return not report.errors and all(one.lag_messages == 0 for one in report.lags)

    assert wait_until(landed, LANDED_SECONDS), market.platform.lag.read([market.exchange])


def _await_started(parts: DagsterParts) -> str:
    """The id of a drain run once it runs."""
    found: list[dict[str, Any]] = []

    def started() -> bool:
        found[:] = parts.graphql(RUNS, {"states": ["STARTED"]})["runsOrError"]["results"]
        found[:] = [one for one in found if {"key": "k2/lane", "value": "ingest"} in one["tags"]]
        return bool(found)

    assert wait_until(started, LANDED_SECONDS)
    return str(found[0]["runId"])


def _await_ended(parts: DagsterParts, run: str) -> None:
    """Until Dagster knows that the run is over. To terminate one whose worker was just killed hangs its code server:
    it waits for the dead process to wake up."""

    def ended() -> bool:
        states = ["STARTED", "CANCELING"]
        return run not in {one["runId"] for one in parts.graphql(RUNS, {"states": states})["runsOrError"]["results"]}

    assert wait_until(ended, LANDED_SECONDS)


def _kill_run_workers(parts: DagsterParts) -> None:
    server = parts.code_server.find()
    assert server is not None
    for child in server.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # ended by itself meanwhile; a zombie is one too
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()


def _pid(parts: DagsterParts) -> int:
    process = parts.daemon.find()
    assert process is not None
    return int(process.pid)


def _assert_once(market: Market, published: int) -> None:
    """Rows and quarantine together are what was published; no offset is there twice (the checks look)."""
    rows = {}
    for dataset in ("ticks", "quotes", "book", "control", "instruments", "quarantine"):
        with partition_files(market.platform, dataset, market.exchange, market.today) as files:
            rows[dataset] = files.rows
    assert sum(rows.values()) == published, rows
    with market.platform.database.begin() as connection:
        ranges = connection.execute(select(commits.c.table_name, commits.c.ranges)).all()
    seen: dict[tuple[str, str, int], list[tuple[int, int]]] = {}
    for table, of_commit in ranges:
        for one in of_commit:
            if table != "market_data.quarantine":
                seen.setdefault((table, one["topic"], one["partition"]), []).append((one["start"], one["end"]))
    for intervals in seen.values():
        ordered = sorted(intervals)
        assert all(before[1] == after[0] for before, after in itertools.pairwise(ordered))


def _committed(market: Market) -> int:
    with market.platform.database.begin() as connection:
        query = select(func.count()).select_from(commits).where(commits.c.table_name == "market_data.ticks")
        return int(connection.execute(query).scalar_one())


def _mirrored(parts: DagsterParts) -> int:
    """Commits of `ticks` that materializations account for so far; each partition is reported once a minute."""
    query = """{ assetOrError(assetKey: {path: ["ticks"]}) { ... on Asset { assetMaterializations(limit: 1000) {
        metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }"""
    events = parts.graphql(query)["assetOrError"]["assetMaterializations"]
    entries = [entry for one in events for entry in one["metadataEntries"]]
    return sum(int(entry["intValue"]) for entry in entries if entry["label"] == "commits")
