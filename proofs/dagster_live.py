"""Dagster on a proof's lake: its processes, and the questions that proofs ask it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from sqlalchemy import func, select

from k2_dagster.assets.mirror import REPORT_INTERVAL_SECONDS
from k2_dagster.devstack.dagster import DagsterParts
from k2_dagster.devstack.process import wait_until
from k2_dagster.ingest.lag import stream_lags
from k2_dagster.schemas.datasets import TABLES, table_name
from k2_dagster.sensors.commits import OVERDUE_SECONDS
from k2_dagster.state.database import Database
from k2_dagster.state.tables import commits
from proofs.common import Lake, say

# A sensor tick, the start of a run and its imports take 10 s on an idle machine, and several times that on a busy one.
LANDED_SECONDS = 300.0
# A check run reports a partition that is due, at most 40 in one run; what none has reported in time the sensor
# reports by itself. Then its tick, which is late on a busy machine.
MIRRORED_SECONDS = REPORT_INTERVAL_SECONDS + OVERDUE_SECONDS + 60.0
# Runs asked for at a time: more than any of the proofs makes.
RUNS_READ = 10_000

_RUNS = """query($states: [RunStatus!], $limit: Int) { runsOrError(filter: {statuses: $states}, limit: $limit) {
    ... on Runs { results { runId jobName status creationTime startTime endTime tags { key value } } } } }"""
_RUN = """query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"""
_EVENTS = """query($run: ID!) { logsForRun(runId: $run) { ... on EventConnection { events {
    ... on MessageEvent { message } } } } }"""
_PID = re.compile(r"Started process for run \(pid: (\d+)\)")
_TERMINATE = "mutation($run: String!) { terminateRun(runId: $run) { __typename } }"
_MATERIALIZATIONS = """query($path: [String!]!) { assetOrError(assetKey: {path: $path}) { ... on Asset {
    assetMaterializations(limit: 10000) { metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }"""


@contextmanager
def live_dagster(lake: Lake) -> Iterator[DagsterParts]:
    """Code server, daemon and webserver for the lake, ended at the end."""
    parts = DagsterParts(lake.settings.home, lake.settings)
    try:
        parts.up(say)
        yield parts
    finally:
        parts.down(purge=True)


def runs(parts: DagsterParts, *states: str) -> list[dict[str, Any]]:
    """Runs, newest first; of these states, or all."""
    variables = {"states": list(states) or None, "limit": RUNS_READ}
    found: list[dict[str, Any]] = parts.graphql(_RUNS, variables)["runsOrError"]["results"]
    return found


def run_status(parts: DagsterParts, run: str) -> str | None:
    """What Dagster calls the run now; None when there is none."""
    status: str | None = parts.graphql(_RUN, {"run": run})["runOrError"].get("status")
    return status


def worker(parts: DagsterParts, run: str) -> psutil.Process | None:
    """The process of a run, as Dagster has noted it, while it is a child of the code server."""
    events = parts.graphql(_EVENTS, {"run": run})["logsForRun"].get("events", [])
    noted = [int(found[1]) for one in events if (found := _PID.search(one.get("message", "")))]
    server = parts.code_server.find()
    if not noted or server is None:
        return None
    children = {child.pid: child for child in server.children(recursive=True)}
    return children.get(noted[-1])


def terminate(parts: DagsterParts, run: str) -> None:
    """As the button in the UI does."""
    parts.graphql(_TERMINATE, {"run": run})


def everything_landed(lake: Lake, exchanges: list[str]) -> bool:
    """Wait until no topic is ahead of its table. Says whether that came to be."""
    return wait_until(
        lambda: not any(one.lag_messages for one in stream_lags(lake.settings, lake.profiles, exchanges)),
        LANDED_SECONDS,
    )


def materializations(parts: DagsterParts, table: str) -> list[dict[str, Any]]:
    """The materializations of a table, newest first, with what they count as numbers."""
    asset = parts.graphql(_MATERIALIZATIONS, {"path": [table]})["assetOrError"]
    return [
        {entry["label"]: entry["intValue"] for entry in one["metadataEntries"] if "intValue" in entry}
        for one in asset.get("assetMaterializations", [])
    ]


def mirror_differences(lake: Lake, parts: DagsterParts) -> list[str]:
    """Tables whose materializations do not count exactly the commits there are, once the mirror had its time."""
    wait_until(lambda: not _differences(lake, parts), MIRRORED_SECONDS)
    return _differences(lake, parts)


def _differences(lake: Lake, parts: DagsterParts) -> list[str]:
    """Commits touch one day here, so each is counted in one partition; those that touch none are not mirrored."""
    out = []
    database = Database(lake.settings)
    try:
        for dataset in TABLES:
            with database.begin() as connection:
                days = select(func.jsonb_object_keys(commits.c.days)).where(commits.c.table_name == table_name(dataset))
                committed = len(connection.execute(days).all())
            mirrored = sum(int(one.get("commits", 0)) for one in materializations(parts, dataset))
            if committed != mirrored:
                out.append(f"{dataset}: {committed} commits, {mirrored} mirrored")
    finally:
        database.close()
    return out
