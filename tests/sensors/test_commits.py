"""The commits sensor: what landed is reported and checked, each commit once, whatever dies in between."""

import time
from datetime import UTC, datetime

import dagster as dg
import pytest
from sqlalchemy import text

from k2_dagster.assets.mirror import LOCK_NAME, last_report
from k2_dagster.assets.partitions import Partition
from k2_dagster.jobs import check_job, check_run_config
from k2_dagster.resources.tags import LANE_TAG
from k2_dagster.sensors.commits import LAUNCH_INTERVAL_SECONDS, OVERDUE_SECONDS, Tick, commits_sensor
from k2_dagster.sensors.cursor import Cursor
from k2_dagster.state.gaps import open_gaps, record_event
from k2_dagster.state.locks import lock_key
from tests.dagster_support import Market, land, reported, run_check_job


def test_cursor_survives_its_storage() -> None:
    partition = ("ticks", "sim", "2026-05-01")
    cursor = Cursor({"market_data.ticks": 7}, {partition: 3}, {partition: 1.5}, [partition], {"standing": 2.0})
    assert Cursor.load(cursor.dump()) == cursor
    assert Cursor.load(None) == Cursor()


@pytest.mark.stack
def test_the_first_commits_are_reported_at_once_and_the_next_with_their_checks(
    market: Market, instance: dg.DagsterInstance
) -> None:
    now = time.time()
    day = market.today
    land(market, "c1", {day: 10}, seconds=0.02)
    chosen, cursor = _tick(market, instance, Cursor(), now)
    assert chosen == [("ticks", market.exchange, day)]
    assert [one["rows"] for one in reported(instance, market, day)] == [10]
    land(market, "c2", {day: 5}, seconds=0.04)
    land(market, "c3", {day: 7}, seconds=0.06)
    chosen, cursor = _tick(market, instance, cursor, now + 5)
    assert (chosen, len(cursor.waiting)) == ([], 1)
    chosen, cursor = _tick(market, instance, cursor, _later())
    assert chosen == [("ticks", market.exchange, day)]
    assert len(reported(instance, market, day)) == 1, "the check run reports, with its checks"


@pytest.mark.stack
def test_check_runs_are_launched_once_a_minute_for_all(market: Market, instance: dg.DagsterInstance) -> None:
    now = time.time()
    today: Partition = ("ticks", market.exchange, market.today)
    before: Partition = ("ticks", market.exchange, "2026-05-01")
    land(market, "c1", {market.today: 10})
    chosen, cursor = _tick(market, instance, Cursor(), now)
    assert chosen == [today]
    land(market, "c2", {before[2]: 5})
    chosen, cursor = _tick(market, instance, cursor, now + 5)
    assert (chosen, len(reported(instance, market, before[2]))) == ([], 1), "shown at once, checked with the others"
    land(market, "c3", {market.today: 1, before[2]: 1})
    for seconds in (10, 30, 55):
        chosen, cursor = _tick(market, instance, cursor, now + seconds)
        assert chosen == []
    chosen, _ = _tick(market, instance, cursor, _later())
    assert set(chosen) == {today, before}


@pytest.mark.stack
def test_what_no_check_run_reports_is_reported_when_it_is_overdue(market: Market, instance: dg.DagsterInstance) -> None:
    now = time.time()
    day = market.today
    land(market, "c1", {day: 10})
    _, cursor = _tick(market, instance, Cursor(), now)
    land(market, "c2", {day: 3})
    for after in (0, OVERDUE_SECONDS / 2):
        _, cursor = _tick(market, instance, cursor, _later() + after)
        assert [one["rows"] for one in reported(instance, market, day)] == [10]
    instance.create_run_for_job(
        check_job, run_config=check_run_config([]), tags={LANE_TAG: "checks"}, status=dg.DagsterRunStatus.STARTED
    )
    chosen, cursor = _tick(market, instance, cursor, _later() + 2 * OVERDUE_SECONDS)
    assert chosen == [], "a check run that hangs"
    assert [one["rows"] for one in reported(instance, market, day)] == [3, 10]
    _, cursor = _tick(market, instance, cursor, _later() + 4 * OVERDUE_SECONDS)
    assert cursor.waiting == {}


@pytest.mark.stack
def test_a_death_between_event_and_cursor_repeats_nothing_and_loses_nothing(
    market: Market, instance: dg.DagsterInstance
) -> None:
    now = time.time()
    day = market.today
    land(market, "c1", {day: 10})
    before = Cursor()
    _tick(market, instance, before, now)  # died: the cursor was not saved
    land(market, "c2", {day: 3})
    overdue = _later() + OVERDUE_SECONDS
    _, cursor = _tick(market, instance, before, overdue)
    assert [one["rows"] for one in reported(instance, market, day)] == [3, 10]
    for again in (cursor, before):
        assert _tick(market, instance, again, overdue)[0] == []
    assert [one["rows"] for one in reported(instance, market, day)] == [3, 10]


@pytest.mark.stack
def test_materializations_made_by_hand_do_not_hide_where_the_mirror_is(
    market: Market, instance: dg.DagsterInstance
) -> None:
    now = time.time()
    day = market.today
    land(market, "c1", {day: 10})
    _tick(market, instance, Cursor(), now)
    key = dg.MultiPartitionKey({"exchange": market.exchange, "day": day})
    for _ in range(25):
        instance.report_runless_asset_event(dg.AssetMaterialization("ticks", partition=key))
    assert last_report(instance, ("ticks", market.exchange, day)).through == 1


@pytest.mark.stack
def test_tomorrow_waits_for_its_partition_and_unknown_exchanges_are_named(
    market: Market, instance: dg.DagsterInstance
) -> None:
    now = time.time()
    tomorrow = datetime.fromtimestamp(now + 86_400, UTC).date().isoformat()
    land(market, "c1", {tomorrow: 4})
    land(market, "c2", {market.today: 1}, exchange="nowhere")
    tick = Tick(instance, market.platform, Cursor(), now)
    assert (tick.choose(), tick.invalid) == ([], {("ticks", "nowhere", market.today)})
    assert list(tick.cursor().waiting) == [("ticks", market.exchange, tomorrow)]
    chosen, _ = _tick(market, instance, tick.cursor(), now + 86_400)
    assert chosen == [("ticks", market.exchange, tomorrow)]
    assert [one["rows"] for one in reported(instance, market, tomorrow)] == [4]


@pytest.mark.stack
def test_a_second_daemon_skips_its_tick(market: Market, instance: dg.DagsterInstance) -> None:
    land(market, "c1", {market.today: 1})
    with market.platform.database.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": lock_key(LOCK_NAME)})
        skipped = _evaluate(market, instance, None)
        assert "somebody else" in str(skipped.skip_reason)
        assert skipped.cursor is None
    assert _evaluate(market, instance, None).cursor is not None
    assert len(reported(instance, market, market.today)) == 1


@pytest.mark.stack
def test_touched_partitions_are_checked_in_one_run_and_not_again(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 300)
    market.drain(market.exchange)
    first = _evaluate(market, instance, None)
    assert first.run_requests is not None
    (request,) = first.run_requests
    config = request.run_config["ops"]["check_partitions"]["config"]
    assert config["mirrored"]
    assert {one["table"] for one in config["partitions"]} == {"ticks", "quotes", "book", "control", "instruments"}
    assert {(one["exchange"], one["day"]) for one in config["partitions"]} == {(market.exchange, market.today)}
    assert not _evaluate(market, instance, first.cursor).run_requests


@pytest.mark.stack
def test_nothing_is_launched_while_a_check_run_is_unfinished(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 300)
    market.drain(market.exchange)
    run = instance.create_run_for_job(
        check_job, run_config=check_run_config([]), tags={LANE_TAG: "checks"}, status=dg.DagsterRunStatus.STARTED
    )
    waiting = _evaluate(market, instance, None)
    assert not waiting.run_requests
    assert len(reported(instance, market, market.today)) == 1, "but what is new is shown"
    instance.report_run_canceled(run)
    chosen, _ = _tick(market, instance, Cursor.load(waiting.cursor), _later())
    assert chosen == []
    market.publish(market.exchange, 300, seed=8)
    market.drain(market.exchange)
    chosen, _ = _tick(market, instance, Cursor.load(waiting.cursor), _later())
    assert ("ticks", market.exchange, market.today) in chosen


@pytest.mark.stack
def test_failures_that_stand_and_messages_that_wait_are_looked_at_without_a_commit(
    market: Market, instance: dg.DagsterInstance
) -> None:
    market.publish(market.exchange, 1_500, faults=("drop:3@1s/ticks",))
    market.drain(market.exchange)
    today: Partition = ("ticks", market.exchange, market.today)
    run_check_job(market, instance, [today], mirrored=True)
    _, cursor = _tick(market, instance, Cursor(), _later())
    assert _tick(market, instance, cursor, _later() + 60)[0] == []
    chosen, cursor = _tick(market, instance, cursor, _later() + 3_700)
    assert chosen == [today]
    market.publish(market.exchange, 300, seed=8)
    chosen, _ = _tick(market, instance, cursor, _later() + 3_700 + 310)
    assert set(chosen) == {
        (one, market.exchange, market.today) for one in ("ticks", "quotes", "book", "control", "instruments")
    }


@pytest.mark.stack
def test_a_gap_that_was_accepted_has_its_partition_checked_at_once(
    market: Market, instance: dg.DagsterInstance
) -> None:
    market.publish(market.exchange, 1_500, faults=("drop:3@1s/ticks",))
    market.drain(market.exchange)
    today: Partition = ("ticks", market.exchange, market.today)
    run_check_job(market, instance, [today], mirrored=True)
    _, cursor = _tick(market, instance, Cursor(), _later())
    (gap,) = open_gaps(market.platform.database, "ticks", market.exchange)
    with market.platform.database.begin() as connection:
        record_event(connection, int(gap["id"]), "accept", by="test", note="the venue has no copy")
    chosen, cursor = _tick(market, instance, cursor, _later() + 120)
    assert chosen == [today]
    run = run_check_job(market, instance, chosen)
    assert all(one.passed for one in run.get_asset_check_evaluations() if one.check_name == "sequence_gaps")
    assert _tick(market, instance, cursor, _later() + 240)[0] == []


def _tick(market: Market, instance: dg.DagsterInstance, cursor: Cursor, now: float) -> tuple[list[Partition], Cursor]:
    tick = Tick(instance, market.platform, cursor, now)
    return tick.choose(), tick.cursor()


def _evaluate(market: Market, instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"k2": market.platform})
    result = commits_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def _later() -> float:
    """After every event that was written so far may be followed by another."""
    return time.time() + LAUNCH_INTERVAL_SECONDS + 1
