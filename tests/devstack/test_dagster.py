"""Dagster's processes: up, recognised, answering, down without a trace; and what the UI is told by GraphQL."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from k2_dagster.cli.check import run_checks
from k2_dagster.devstack.dagster import INSTANCE_FILE, DagsterParts
from k2_dagster.devstack.process import wait_until
from k2_dagster.errors import ConfigurationError
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.settings import Settings
from tests.dagster_support import Market, make_market
from tests.reference import REPOSITORY

ASSETS = """{ assetNodes { assetKey { path } groupName description kinds
    owners { ... on TeamAssetOwner { team } }
    dependencyKeys { path }
    metadataEntries { label ... on TableSchemaMetadataEntry { schema { columns { name description } } } }
    partitionKeysByDimension(startIdx: 0) { name partitionKeys } } }"""
MATERIALIZATION = """{ assetOrError(assetKey: {path: ["ticks"]}) { ... on Asset { assetMaterializations(limit: 1) {
    partition metadataEntries { __typename label } } } } }"""
EVALUATION = """query($partition: String!) { assetCheckExecutions(
    assetKey: {path: ["ticks"]}, checkName: "sequence_gaps", limit: 1, partition: $partition) {
    status evaluation { success severity metadataEntries {
    __typename label ... on UrlMetadataEntry { url } ... on MarkdownMetadataEntry { mdStr } } } } }"""
CHECKS = """{ assetNodes { assetKey { path } partitionStats { numMaterialized numFailed }
    assetChecksOrError { ... on AssetChecks { checks { name
    executionForLatestMaterialization { status evaluation { partition } }
    partitionStatuses { ... on AssetCheckMultiPartitionStatuses { ranges { primaryDimStartKey secondaryDim {
        ... on AssetCheckDefaultPartitionStatuses { failedPartitions succeededPartitions } } } } } } } } } }"""
TOPIC = """{ assetOrError(assetKey: {path: ["kafka", "ticks"]}) { ... on Asset { assetMaterializations(limit: 1) {
    partition metadataEntries { label } } } } }"""
SENSORS = """{ sensorsOrError(repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "k2"}) {
    ... on Sensors { results { name sensorState { status } } } } }"""

# Each of the three ends by itself within two or three seconds; one that has to be killed takes twenty more.
PROMPT_SECONDS = 18.0
# A tick of the mirror, on a busy machine; and a run behind it.
MIRRORED_SECONDS = 60.0
CHECKED_SECONDS = 120.0


@pytest.fixture
def running(settings: Settings, tmp_path: Path) -> Iterator[tuple[Market, DagsterParts]]:
    market = make_market(settings, tmp_path)
    parts = DagsterParts(settings.home, market.settings)
    try:
        parts.up()
        yield market, parts
    finally:
        parts.down(purge=True)
        market.platform.close()


def test_without_a_database_there_is_no_dagster(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="K2_DAGSTER_URI"):
        DagsterParts(tmp_path, Settings())


def test_a_wheel_has_everything_that_it_needs(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tmp_path)
    shutil.copytree(REPOSITORY / "k2_dagster", tmp_path / "k2_dagster", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(tmp_path / "wheels"), str(tmp_path)], check=True, capture_output=True)

    (wheel,) = (tmp_path / "wheels").iterdir()
    names = set(zipfile.ZipFile(wheel).namelist())

    assert INSTANCE_FILE.relative_to(REPOSITORY).as_posix() in names
    assert {"k2_dagster/devstack/jars.lock", "k2_dagster/schemas/exchanges.toml"} <= names
    assert [path for path in REPOSITORY.rglob("dagster.yaml") if ".venv" not in path.parts] == [INSTANCE_FILE]


def test_what_was_brought_up_can_be_looked_at_without_settings(tmp_path: Path) -> None:
    parts = DagsterParts(tmp_path)

    assert not parts.exists
    parts.down(purge=True)
    assert [part.find() for part in parts.parts] == [None, None, None]


@pytest.mark.stack
@pytest.mark.timeout(600)
def test_it_comes_up_tells_what_the_ui_shows_and_goes_down(running: tuple[Market, DagsterParts]) -> None:
    market, parts = running
    _assert_assets(market, parts)
    _assert_sensors(parts)

    pids = _pids(parts)
    assert len(pids) == 3
    logs = [part.log.read_text() for part in parts.parts]
    assert not any("Retrying failed database creation" in log for log in logs), "they did not race for the tables"
    parts.up()
    assert _pids(parts) == pids

    _assert_numbers_plot_and_a_failed_check_has_its_runbook(market, parts)

    # a killed code server comes back on the same socket, and the webserver finds it again
    os.kill(pids[0], signal.SIGKILL)
    parts.up()
    _assert_assets(market, parts)

    said: list[str] = []
    began = time.monotonic()
    parts.down(purge=True, progress=said.append)
    assert time.monotonic() - began < PROMPT_SECONDS
    assert [line.split()[0] for line in said] == ["dagster-daemon", "dagster-webserver", "dagster-code"]
    assert all(part.find() is None for part in parts.parts)
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)
    assert not parts.socket.exists()
    assert not parts.instance_folder.exists()


def _pids(parts: DagsterParts) -> list[int]:
    return [process.pid for part in parts.parts if (process := part.find()) is not None]


def _assert_assets(market: Market, parts: DagsterParts) -> None:
    nodes = {"/".join(one["assetKey"]["path"]): one for one in parts.graphql(ASSETS)["assetNodes"]}
    assert set(nodes) == {f"kafka/{name}" for name in WIRE_DATASETS} | {
        *("ticks", "quotes", "book", "control", "instruments", "quarantine")
    }
    for name, node in nodes.items():
        assert node["groupName"], name
        assert node["description"], name
        assert node["kinds"], name
        assert node["owners"], name
        (columns,) = [one["schema"]["columns"] for one in node["metadataEntries"] if "schema" in one]
        assert any("[UTC microseconds]" in column["description"] for column in columns), name
    ticks = nodes["ticks"]
    assert ticks["dependencyKeys"] == [{"path": ["kafka", "ticks"]}]
    grid = {one["name"]: one["partitionKeys"] for one in ticks["partitionKeysByDimension"]}
    assert grid["day"][-1] == market.today
    assert grid["exchange"] == market.exchanges


def _assert_numbers_plot_and_a_failed_check_has_its_runbook(market: Market, parts: DagsterParts) -> None:
    market.publish(market.exchange, 1_500, faults=("drop:3@1s/ticks",))
    market.drain(market.exchange)
    partition = f"{market.today}|{market.exchange}"
    events: list[dict[str, Any]] = []

    def mirrored() -> bool:
        events[:] = parts.graphql(MATERIALIZATION)["assetOrError"].get("assetMaterializations", [])
        return bool(events)

    assert wait_until(mirrored, MIRRORED_SECONDS)
    assert events[0]["partition"] == partition
    types = {one["label"]: one["__typename"] for one in events[0]["metadataEntries"]}
    plotted = {name for name, kind in types.items() if kind in ("IntMetadataEntry", "FloatMetadataEntry")}
    assert {"rows", "bytes", "gaps", "quarantined", "commit_seconds_p50", "commit_seconds_max"} <= plotted

    # of the run that the sensor launches; afterwards the same by hand
    assert wait_until(lambda: _state(parts, "sequence_gaps") == ("FAILED", partition), CHECKED_SECONDS)
    other = market.settings.model_copy(update={"freshness_target_seconds": 7.0})
    answer = run_checks(other, "ticks", market.exchange, market.today)
    assert answer["recorded"]
    (freshness,) = [one["metadata"] for one in answer["checks"] if one["check"] == "freshness"]
    assert freshness["target_seconds"] == market.settings.freshness_target_seconds, "what the code server was told"
    assert [one["check"] for one in answer["checks"] if not one["passed"]] == ["sequence_gaps"]
    (execution,) = parts.graphql(EVALUATION, {"partition": partition})["assetCheckExecutions"]
    assert not execution["evaluation"]["success"]
    assert execution["evaluation"]["severity"] == "WARN"
    shown = {one["label"]: one for one in execution["evaluation"]["metadataEntries"]}
    assert shown["runbook"]["url"].endswith("docs/runbooks/sequence_gaps.md")
    assert "# sequence_gaps" in shown["what_to_do"]["mdStr"]
    assert _state(parts, "sequence_gaps") == ("FAILED", partition)
    assert _state(parts, "accounting") == ("SUCCEEDED", partition)
    assert _grid(parts, "sequence_gaps") == (market.today, [market.exchange], [])
    assert _grid(parts, "accounting") == (market.today, [], [market.exchange])
    ticks = _node(parts, "ticks")
    assert ticks["partitionStats"] == {"numMaterialized": 1, "numFailed": 0}
    (observed,) = parts.graphql(TOPIC)["assetOrError"]["assetMaterializations"]
    assert observed["partition"] == market.exchange
    assert "end_offsets" in {one["label"] for one in observed["metadataEntries"]}


def _node(parts: DagsterParts, table: str) -> dict[str, Any]:
    (found,) = [one for one in parts.graphql(CHECKS)["assetNodes"] if one["assetKey"]["path"] == [table]]
    return dict(found)


def _check(parts: DagsterParts, name: str) -> dict[str, Any]:
    (found,) = [one for one in _node(parts, "ticks")["assetChecksOrError"]["checks"] if one["name"] == name]
    return dict(found)


def _state(parts: DagsterParts, check: str) -> tuple[str, str] | None:
    """What the asset's page shows of a check, and of which partition; None for "not evaluated"."""
    execution = _check(parts, check)["executionForLatestMaterialization"]
    return None if execution is None else (execution["status"], execution["evaluation"]["partition"])


def _grid(parts: DagsterParts, check: str) -> tuple[str, list[str], list[str]]:
    """The only day of the check's partition grid that is not missing: failed and passed exchanges."""
    ranges = _check(parts, check)["partitionStatuses"]["ranges"]
    (found,) = [one for one in ranges if any(one["secondaryDim"].values())]
    second = found["secondaryDim"]
    return found["primaryDimStartKey"], second["failedPartitions"], second["succeededPartitions"]


def _assert_sensors(parts: DagsterParts) -> None:
    sensors = parts.graphql(SENSORS)["sensorsOrError"]["results"]
    assert {one["name"]: one["sensorState"]["status"] for one in sensors} == dict.fromkeys(
        ("lag", "commits"), "RUNNING"
    )
    assert {one["name"] for one in _node(parts, "quarantine")["assetChecksOrError"]["checks"]} == {
        *("accounting", "unique_identity", "schema", "reasons")
    }
