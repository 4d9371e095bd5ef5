"""What the lag sensor decides, and that a tick is cheap and bears broken topics."""

import json
import logging
import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from k2_dagster.cli.init import initialize
from k2_dagster.errors import K2Error
from k2_dagster.jobs import drain_job, drain_run_config
from k2_dagster.resources.platform import Platform
from k2_dagster.resources.tags import LANE_TAG, STREAM_TAG
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.sensors.commits import commits_sensor
from k2_dagster.sensors.lag import (
    FAILURE_WINDOW,
    FIRST_RETRY_SECONDS,
    LONGEST_RETRY_SECONDS,
    Failures,
    Memory,
    decide,
    failed_streams,
    lag_sensor,
    leased_exchanges,
    retry_seconds,
    unfinished_streams,
)
from k2_dagster.sensors.observing import OBSERVE_SECONDS, observe
from k2_dagster.sensors.problems import problems
from k2_dagster.settings import Settings
from k2_dagster.state.leases import acquire_lease
from tests.dagster_support import Market, make_market

SETTINGS = Settings(drain_min_rows=100, freshness_target_seconds=60)
NOW = 1_000_000.0


def test_many_messages_are_drained_at_once() -> None:
    assert decide({"a": 100, "b": 99}, set(), set(), {}, Memory(ticked_at=NOW), NOW, SETTINGS).launch == ["a"]


def test_messages_that_nobody_has_looked_at_yet_are_drained_at_once() -> None:
    assert decide({"a": 1, "b": 0}, set(), set(), {}, Memory(), NOW, SETTINGS).launch == ["a"]


def test_few_messages_are_drained_when_they_may_be_older_than_the_target() -> None:
    memory = decide({"a": 1}, set(), set(), {}, Memory(ticked_at=NOW), NOW + 5, SETTINGS).memory
    assert decide({"a": 1}, set(), set(), {}, memory, NOW + 55, SETTINGS).launch == []
    assert decide({"a": 1}, set(), set(), {}, memory, NOW + 60, SETTINGS).launch == ["a"]


def test_waiting_starts_again_after_a_drain() -> None:
    memory = decide({"a": 1}, set(), set(), {}, Memory(ticked_at=NOW), NOW, SETTINGS).memory
    memory = decide({"a": 1}, set(), set(), {}, memory, NOW + 60, SETTINGS).memory
    memory = decide({"a": 0}, set(), set(), {}, memory, NOW + 65, SETTINGS).memory
    assert decide({"a": 1}, set(), set(), {}, memory, NOW + 70, SETTINGS).launch == []


def test_an_occupied_exchange_is_left_alone() -> None:
    assert decide({"a": 1_000}, {"a"}, set(), {}, Memory(), NOW, SETTINGS).launch == []
    assert decide({"a": 1_000}, set(), {"a"}, {}, Memory(), NOW, SETTINGS).launch == []


def test_an_exchange_whose_process_has_left_it_is_taken_over_in_the_tick_that_sees_it() -> None:
    memory = Memory(ticked_at=NOW)
    for seconds in (5, 10, 15):
        memory = decide({"a": 1, "b": 0}, set(), {"a", "b"}, {}, memory, NOW + seconds, SETTINGS).memory
    assert memory.waiting_since == {"a": NOW}, "they wait, whoever should land them"
    decision = decide({"a": 1, "b": 0}, set(), set(), {}, memory, NOW + 20, SETTINGS)
    assert decision.launch == ["a"]
    again = decide({"a": 1, "b": 1}, set(), set(), {}, decision.memory, NOW + 25, SETTINGS)
    assert again.launch == [], "a lease that was left is no reason for ever"


def test_a_failed_run_is_followed_at_once_after_its_wait() -> None:
    memory = Memory(launched_at={"a": NOW - 3}, ticked_at=NOW - 5)
    failed = {"a": Failures(1, NOW)}
    assert decide({"a": 1}, set(), set(), failed, memory, NOW + FIRST_RETRY_SECONDS - 1, SETTINGS).launch == []
    assert decide({"a": 1}, set(), set(), failed, memory, NOW + FIRST_RETRY_SECONDS, SETTINGS).launch == ["a"]


def test_an_older_failure_does_not_hasten_the_next_run() -> None:
    memory = Memory(launched_at={"a": NOW + 10}, ticked_at=NOW + 20)
    assert decide({"a": 1}, set(), set(), {"a": Failures(1, NOW)}, memory, NOW + 25, SETTINGS).launch == []


@given(st.integers(1, 500))
def test_waits_grow_and_are_bounded(failures: int) -> None:
    assert FIRST_RETRY_SECONDS <= retry_seconds(failures) <= retry_seconds(failures + 1) <= LONGEST_RETRY_SECONDS


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 300)),
    st.sets(st.sampled_from("abc")),
    st.sets(st.sampled_from("abc")),
    st.dictionaries(st.sampled_from("abc"), st.floats(NOW - 500, NOW)),
)
def test_only_free_exchanges_with_messages_are_launched_and_memory_survives_the_cursor(
    lags: dict[str, int], draining: set[str], leased: set[str], since: dict[str, float]
) -> None:
    before = Memory(waiting_since=since, problems={"t": "gone"}, observed={"t": (1.5, 7)})
    decision = decide(lags, draining, leased, {}, before, NOW, SETTINGS)
    assert all(lags[one] > 0 and one not in draining | leased for one in decision.launch)
    assert not set(decision.launch) & set(decision.memory.waiting_since)
    assert Memory.load(decision.memory.dump()) == decision.memory


@pytest.mark.stack
def test_a_tick_launches_a_drain_with_tags_and_without_run_key(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange)
    result = _tick(market, instance, Memory(ticked_at=time.time() - 100).dump())
    assert result.run_requests is not None
    (request,) = result.run_requests
    assert request.run_key is None
    assert request.run_config == drain_run_config(market.exchange)
    assert (request.tags[STREAM_TAG], request.tags[LANE_TAG]) == (market.exchange, "ingest")


@pytest.mark.stack
def test_unfinished_and_failed_runs_are_seen(market: Market, instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(
        drain_job, run_config=drain_run_config(market.exchange), status=dg.DagsterRunStatus.STARTED,
        tags={STREAM_TAG: market.exchange, LANE_TAG: "ingest"},
    )  # fmt: skip
    assert unfinished_streams(instance) == {market.exchange}
    market.publish(market.exchange)
    assert not _tick(market, instance, Memory(ticked_at=time.time() - 100).dump()).run_requests
    instance.report_run_failed(run)
    assert unfinished_streams(instance) == set()
    failures = failed_streams(instance, datetime.now(UTC))
    assert failures[market.exchange].count == 1
    assert failed_streams(instance, datetime.now(UTC) + FAILURE_WINDOW * 2) == {}


@pytest.mark.stack
def test_a_living_lease_is_left_alone_and_a_stale_one_is_not(market: Market) -> None:
    acquire_lease(market.platform.database, market.exchange, "test", stale_seconds=60)
    assert leased_exchanges(market.platform) == {market.exchange}
    with market.platform.database.begin() as connection:
        connection.execute(text("update k2.leases set heartbeat_at = now() - interval '61 seconds'"))
    assert leased_exchanges(market.platform) == set()


@pytest.mark.stack
def test_many_topics_cost_little_and_a_broken_one_hides_none(
    settings: Settings, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    market = make_market(settings, tmp_path, exchanges=5, partitions=4)
    whole = market.exchanges[0]
    market.publish(whole, messages=200)
    first = market.platform.lag.read(market.exchanges)
    assert (len(first.lags), first.errors) == (25, {})
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        _tick(market, instance, Memory().dump())
        seconds.append(time.perf_counter() - started)
    print(f"a tick at 25 topics (70 partitions): median {sorted(seconds)[5] * 1000:.0f} ms")  # noqa: T201
    missing = f"market.quotes.{market.exchanges[1]}"
    market.delete_topic(missing)
    result = _tick(market, instance, Memory(ticked_at=time.time() - 100).dump())
    assert result.run_requests is not None
    assert [one.tags[STREAM_TAG] for one in result.run_requests] == [whole]
    market.drain(whole)
    reason = str(_tick(market, instance, Memory().dump()).skip_reason)
    assert missing in reason
    market.platform.close()


@pytest.mark.stack
def test_a_problem_is_logged_when_it_comes_and_when_it_goes(
    market: Market, instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    def logged(cursor: str | None) -> tuple[list[tuple[int, str]], str | None]:
        context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"k2": market.platform})
        records: list[logging.LogRecord] = []
        context.log.addHandler(_Collect(records))
        result = lag_sensor(context)
        assert isinstance(result, dg.SensorResult)
        return [(one.levelno, one.getMessage()) for one in records], result.cursor

    assert logged(None)[0] == [], "a quiet tick writes nothing"
    topic = f"market.quotes.{market.exchange}"
    market.delete_topic(topic)
    lines, cursor = logged(None)
    assert [(level, topic in text) for level, text in lines] == [(logging.ERROR, True)]
    lines, cursor = logged(cursor)
    assert lines == []
    initialize(market.settings, market.platform.profiles, (market.exchange,))
    lines, cursor = logged(cursor)
    assert [(level, topic in text) for level, text in lines] == [(logging.INFO, True)]
    assert logged(cursor)[0] == []


class _Collect(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self.records = records

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.mark.stack
def test_an_exchange_that_nobody_initialised_is_no_problem_and_one_whose_topics_are_gone_is(
    settings: Settings, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    market = make_market(settings, tmp_path, exchanges=3)
    gone, never, _ = market.exchanges
    market.publish(gone, 200)
    market.drain(gone)
    for exchange in (gone, never):
        for dataset in ("ticks", "quotes", "book", "control", "instruments"):
            market.delete_topic(f"market.{dataset}.{exchange}")
    found = problems(market.platform, market.platform.lag.read(market.exchanges))
    assert found.not_initialised == {never}
    assert set(found.by_topic) == {
        f"market.{one}.{gone}" for one in ("ticks", "quotes", "book", "control", "instruments")
    }
    reason = str(_tick(market, instance, None).skip_reason)
    assert "1 exchanges of the profiles are not initialised" in reason
    assert "5 topics not looked at" in reason
    assert never not in reason
    market.platform.close()


@pytest.mark.stack
def test_topics_are_observed_when_they_have_moved_but_not_in_every_tick(
    market: Market, instance: dg.DagsterInstance
) -> None:
    market.publish(market.exchange, 300)
    first = _tick(market, instance, None)
    assert {one.asset_key for one in first.asset_events} == {
        dg.AssetKey(["kafka", name]) for name in ("ticks", "quotes", "book", "control", "instruments")
    }
    assert {one.partition for one in first.asset_events} == {market.exchange}
    assert all(isinstance(one, dg.AssetMaterialization) for one in first.asset_events), "the topic is there"
    (ticks,) = [one for one in first.asset_events if one.asset_key.path[-1] == "ticks"]
    lag = ticks.metadata["lag_messages"].value
    assert isinstance(lag, int)
    assert lag > 0
    assert sum(json.loads(json.dumps(ticks.metadata["end_offsets"].value)).values()) == lag
    market.publish(market.exchange, 300, seed=8)
    again = _tick(market, instance, first.cursor)
    assert not again.asset_events
    lags = market.platform.lag.read([market.exchange]).lags
    due = time.time() + OBSERVE_SECONDS + 1
    later, after = observe(lags, Memory.load(again.cursor).observed, due)
    assert [type(one) for one in later] == [dg.AssetObservation] * 5
    assert observe(lags, after, due + OBSERVE_SECONDS + 1)[0] == [], "nothing has moved"


@pytest.mark.stack
@pytest.mark.parametrize("sensor", [lag_sensor, commits_sensor], ids=["lag", "commits"])
def test_before_k2_init_a_tick_says_so_and_does_not_fail(
    settings: Settings, instance: dg.DagsterInstance, sensor: dg.SensorDefinition
) -> None:
    platform = Platform(settings, load_profiles())
    result = sensor(dg.build_sensor_context(instance=instance, resources={"k2": platform}))
    assert isinstance(result, dg.SensorResult)
    assert "k2 init" in str(result.skip_reason)
    assert result.cursor is None
    platform.close()


@pytest.mark.stack
def test_a_tick_fails_when_nothing_can_be_looked_at(
    settings: Settings, market: Market, instance: dg.DagsterInstance
) -> None:
    market.publish(market.exchange, 200)
    market.drain(market.exchange)
    for dataset in ("ticks", "quotes", "book", "control", "instruments"):
        market.delete_topic(f"market.{dataset}.{market.exchange}")
    with pytest.raises(K2Error, match="does not exist"):
        _tick(market, instance, None)


def _tick(market: Market, instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"k2": market.platform})
    result = lag_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result
