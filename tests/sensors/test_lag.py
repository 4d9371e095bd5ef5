"""What the lag sensor decides, and that a tick is cheap and bears broken topics."""

import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from k2_dagster.errors import K2Error
from k2_dagster.jobs import STREAM_TAG, drain_job, drain_run_config
from k2_dagster.resources.pruning import LANE_TAG
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
from k2_dagster.settings import Settings
from k2_dagster.state.leases import acquire_lease
from tests.dagster_support import Market, make_market

SETTINGS = Settings(drain_min_rows=100, freshness_target_seconds=60)
NOW = 1_000_000.0


def test_many_messages_are_drained_at_once() -> None:
    assert decide({"a": 100, "b": 99}, set(), {}, Memory(), NOW, SETTINGS).launch == ["a"]


def test_few_messages_are_drained_when_they_may_be_older_than_the_target() -> None:
    memory = decide({"a": 1}, set(), {}, Memory(ticked_at=NOW), NOW + 5, SETTINGS).memory
    assert decide({"a": 1}, set(), {}, memory, NOW + 55, SETTINGS).launch == []
    assert decide({"a": 1}, set(), {}, memory, NOW + 60, SETTINGS).launch == ["a"]


def test_waiting_starts_again_after_a_drain() -> None:
    memory = decide({"a": 1}, set(), {}, Memory(), NOW, SETTINGS).memory
    memory = decide({"a": 1}, set(), {}, memory, NOW + 60, SETTINGS).memory
    memory = decide({"a": 0}, set(), {}, memory, NOW + 65, SETTINGS).memory
    assert decide({"a": 1}, set(), {}, memory, NOW + 70, SETTINGS).launch == []


def test_an_occupied_exchange_is_left_alone() -> None:
    assert decide({"a": 1_000}, {"a"}, {}, Memory(), NOW, SETTINGS).launch == []


def test_a_failed_run_is_followed_at_once_after_its_wait() -> None:
    memory = Memory(launched_at={"a": NOW - 3}, ticked_at=NOW - 5)
    failed = {"a": Failures(1, NOW)}
    assert decide({"a": 1}, set(), failed, memory, NOW + FIRST_RETRY_SECONDS - 1, SETTINGS).launch == []
    assert decide({"a": 1}, set(), failed, memory, NOW + FIRST_RETRY_SECONDS, SETTINGS).launch == ["a"]


def test_an_older_failure_does_not_hasten_the_next_run() -> None:
    memory = Memory(launched_at={"a": NOW + 10}, ticked_at=NOW + 20)
    assert decide({"a": 1}, set(), {"a": Failures(1, NOW)}, memory, NOW + 25, SETTINGS).launch == []


@given(st.integers(1, 500))
def test_waits_grow_and_are_bounded(failures: int) -> None:
    assert FIRST_RETRY_SECONDS <= retry_seconds(failures) <= retry_seconds(failures + 1) <= LONGEST_RETRY_SECONDS


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 300)),
    st.sets(st.sampled_from("abc")),
    st.dictionaries(st.sampled_from("abc"), st.floats(NOW - 500, NOW)),
)
def test_only_free_exchanges_with_messages_are_launched_and_memory_survives_the_cursor(
    lags: dict[str, int], occupied: set[str], since: dict[str, float]
) -> None:
    decision = decide(lags, occupied, {}, Memory(waiting_since=since), NOW, SETTINGS)
    assert all(lags[one] > 0 and one not in occupied for one in decision.launch)
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
def test_twenty_topics_cost_little_and_a_broken_one_hides_none(
    settings: Settings, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    market = make_market(settings, tmp_path, exchanges=5, partitions=4)
    whole = market.exchanges[0]
    market.publish(whole, messages=200)
    first = market.platform.lag.read(market.exchanges)
    assert (len(first.lags), first.errors) == (20, {})
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        _tick(market, instance, Memory().dump())
        seconds.append(time.perf_counter() - started)
    print(f"a tick at 20 topics (80 partitions): median {sorted(seconds)[5] * 1000:.0f} ms")  # noqa: T201
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
def test_a_tick_fails_when_nothing_can_be_looked_at(
    settings: Settings, market: Market, instance: dg.DagsterInstance
) -> None:
    for dataset in ("ticks", "quotes", "book", "control"):
        market.delete_topic(f"market.{dataset}.{market.exchange}")
    with pytest.raises(K2Error, match="does not exist"):
        _tick(market, instance, None)


def _tick(market: Market, instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"k2": market.platform})
    result = lag_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result
