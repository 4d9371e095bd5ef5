"""Materializing by hand: an open day drains, a closed one is refused with the reason."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from k2_dagster.definitions import build_definitions
from tests.dagster_support import Market


def _materialize(
    market: Market, instance: dg.DagsterInstance, table: str, day: str | None
) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(market.platform)
    job = definitions.resolve_implicit_global_asset_job_def()
    key = None if day is None else dg.MultiPartitionKey({"exchange": market.exchange, "day": day})
    return job.execute_in_process(
        partition_key=key, instance=instance, asset_selection=[dg.AssetKey(table)], raise_on_error=False
    )


def _why(result: dg.ExecuteInProcessResult) -> str:
    (event,) = result.filter_events(lambda one: one.is_step_failure)
    assert event.step_failure_data.user_failure_data is not None
    return str(event.step_failure_data.user_failure_data.description)


@pytest.mark.stack
def test_an_open_day_drains_the_tables_topic(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 500)
    result = _materialize(market, instance, "ticks", market.today)
    assert result.success
    (event,) = result.asset_materializations_for_node("ticks")
    assert event.partition == f"{market.today}|{market.exchange}"
    drained = event.metadata["drained_rows"].value
    assert isinstance(drained, int)
    assert drained > 0
    lags = {one.dataset: one.lag_messages for one in market.platform.lag.read([market.exchange]).lags}
    assert lags["ticks"] == 0
    assert lags["quotes"] > 0


@pytest.mark.stack
def test_quarantine_drains_every_topic(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 500)
    assert _materialize(market, instance, "quarantine", market.today).success
    assert all(one.lag_messages == 0 for one in market.platform.lag.read([market.exchange]).lags)


@pytest.mark.stack
def test_a_closed_day_is_refused_with_the_reason_and_nothing_is_drained(
    market: Market, instance: dg.DagsterInstance
) -> None:
    market.publish(market.exchange, 300)
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    result = _materialize(market, instance, "ticks", yesterday)
    assert not result.success
    assert f"{yesterday}: closed" in _why(result)
    assert "re-derivation" in _why(result)
    assert any(one.lag_messages for one in market.platform.lag.read([market.exchange]).lags)


@pytest.mark.stack
def test_a_run_without_a_partition_is_refused(market: Market, instance: dg.DagsterInstance) -> None:
    result = _materialize(market, instance, "ticks", None)
    assert not result.success
    assert "no partition was given" in _why(result)
