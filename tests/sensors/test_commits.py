"""The mirror: every commit in exactly one materialization, whatever dies in between."""

import time
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import insert, text

from k2_dagster.sensors.commits import (
    LOCK_NAME,
    REPORT_INTERVAL_SECONDS,
    Cursor,
    commits_sensor,
    last_report,
    mirror,
)
from k2_dagster.state.locks import lock_key
from k2_dagster.state.tables import commits
from tests.dagster_support import Market

NOW = time.time()


def test_cursor_survives_its_storage() -> None:
    partition = ("ticks", "sim", "2026-05-01")
    cursor = Cursor({"market_data.ticks": 7}, {partition: 3}, {partition: 1.5})
    assert Cursor.load(cursor.dump()) == cursor
    assert Cursor.load(None) == Cursor()


@pytest.mark.stack
def test_each_commit_is_counted_once_at_most_once_a_minute(market: Market, instance: dg.DagsterInstance) -> None:
    day = market.today
    _land(market, "c1", {day: 10}, seconds=0.02)
    cursor, reported, _ = mirror(instance, market.platform, Cursor(), NOW)
    assert reported == 1
    _land(market, "c2", {day: 5}, seconds=0.04)
    _land(market, "c3", {day: 7}, seconds=0.06)
    cursor, reported, _ = mirror(instance, market.platform, cursor, NOW + 5)
    assert (reported, len(cursor.waiting)) == (0, 1)
    cursor, reported, _ = mirror(instance, market.platform, cursor, _later())
    assert (reported, cursor.waiting) == (1, {})
    first, second = reversed(_reported(instance, market, day))
    assert (first["rows"], second["rows"]) == (10, 12)
    assert (second["commits"], second["commit_seconds_p50"], second["commit_seconds_max"]) == (2, 0.05, 0.06)
    assert second["offsets"] == {"market.ticks.x:0": [0, 9]}
    assert second["gaps"] == 0


@pytest.mark.stack
def test_a_death_between_event_and_cursor_repeats_nothing_and_loses_nothing(
    market: Market, instance: dg.DagsterInstance
) -> None:
    day = market.today
    _land(market, "c1", {day: 10})
    before = Cursor()
    mirror(instance, market.platform, before, NOW)  # died: the cursor was not saved
    _land(market, "c2", {day: 3})
    cursor, _, _ = mirror(instance, market.platform, before, _later())
    assert [one["rows"] for one in _reported(instance, market, day)] == [3, 10]
    assert mirror(instance, market.platform, cursor, _later())[1] == 0
    assert mirror(instance, market.platform, before, _later())[1] == 0
    assert [one["rows"] for one in _reported(instance, market, day)] == [3, 10]


@pytest.mark.stack
def test_materializations_made_by_hand_do_not_hide_where_the_mirror_is(
    market: Market, instance: dg.DagsterInstance
) -> None:
    day = market.today
    _land(market, "c1", {day: 10})
    mirror(instance, market.platform, Cursor(), NOW)
    key = dg.MultiPartitionKey({"exchange": market.exchange, "day": day})
    for _ in range(25):
        instance.report_runless_asset_event(dg.AssetMaterialization("ticks", partition=key))
    assert last_report(instance, ("ticks", market.exchange, day)).through == 1


@pytest.mark.stack
def test_tomorrow_waits_for_its_partition_and_unknown_exchanges_are_named(
    market: Market, instance: dg.DagsterInstance
) -> None:
    tomorrow = datetime.fromtimestamp(NOW + 86_400, UTC).date().isoformat()
    _land(market, "c1", {tomorrow: 4})
    _land(market, "c2", {market.today: 1}, exchange="nowhere")
    cursor, reported, invalid = mirror(instance, market.platform, Cursor(), NOW)
    assert (reported, invalid) == (0, [("ticks", "nowhere", market.today)])
    assert list(cursor.waiting) == [("ticks", market.exchange, tomorrow)]
    cursor, reported, _ = mirror(instance, market.platform, cursor, NOW + 86_400)
    assert (reported, cursor.waiting) == (1, {})
    assert [one["rows"] for one in _reported(instance, market, tomorrow)] == [4]


@pytest.mark.stack
def test_a_second_daemon_skips_its_tick(market: Market, instance: dg.DagsterInstance) -> None:
    _land(market, "c1", {market.today: 1})
    with market.platform.database.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": lock_key(LOCK_NAME)})
        skipped = _tick(market, instance)
        assert "another daemon" in str(skipped.skip_reason)
        assert skipped.cursor is None
    assert _tick(market, instance).cursor is not None
    assert len(_reported(instance, market, market.today)) == 1


@pytest.mark.stack
def test_a_real_drain_is_mirrored_with_its_run(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 500)
    report = market.drain(market.exchange, run_id="a-run")
    mirror(instance, market.platform, Cursor(), NOW)
    found = {
        dataset: _reported(instance, market, market.today, dataset)
        for dataset in ("ticks", "quotes", "book", "control")
    }
    assert sum(one["rows"] for events in found.values() for one in events) == report.rows
    assert all(one["runs"] == ["a-run"] for events in found.values() for one in events)
    assert all(one["bytes"] > 0 and one["schema_ids"] for events in found.values() for one in events)


def _tick(market: Market, instance: dg.DagsterInstance) -> dg.SensorResult:
    result = commits_sensor(dg.build_sensor_context(instance=instance, resources={"k2": market.platform}))
    assert isinstance(result, dg.SensorResult)
    return result


def _later() -> float:
    """After every event that was written so far may be followed by another."""
    return time.time() + REPORT_INTERVAL_SECONDS + 1


def _reported(instance: dg.DagsterInstance, market: Market, day: str, dataset: str = "ticks") -> list[dict[str, Any]]:
    """Metadata of the partition's mirrored materializations, newest first."""
    key = dg.MultiPartitionKey({"exchange": market.exchange, "day": day})
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey(dataset), asset_partitions=[key]), limit=100
    ).records
    events = [one.asset_materialization for one in records]
    return [{name: value.value for name, value in one.metadata.items()} for one in events if one is not None]


def _land(
    market: Market, commit_id: str, days: dict[str, int], *, exchange: str | None = None, seconds: float = 0.01
) -> None:
    """A settled commit, without the table behind it."""
    place = {"topic": "market.ticks.x", "topic_id": "t", "topic_epoch": 0, "partition": 0, "start": 0, "end": 9}
    row = {
        "id": commit_id, "table_name": "market_data.ticks", "exchange": exchange or market.exchange, "dataset": "ticks",
        "snapshot_id": 1, "stamp": datetime.now(UTC), "ranges": [place], "days": days, "schema_ids": [1],
        "counts": {"consumed": 9, "rows": sum(days.values()), "quarantined": 0, "bytes": 100}, "rules_version": 1,
        "run_id": "r", "code_version": "0", "commit_seconds": seconds,
    }  # fmt: skip
    with market.platform.database.begin() as connection:
        connection.execute(insert(commits), row)
