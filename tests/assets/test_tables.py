"""Materializing by hand: an open day drains, a closed one is refused with the reason."""

import logging
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from k2_dagster.assets.mirror import last_report
from k2_dagster.assets.partitions import partition_key, table_partitions
from k2_dagster.definitions import build_definitions
from k2_dagster.resources.lake import duckdb_resource
from k2_dagster.state.leases import acquire_lease
from tests.dagster_support import CHECKS_OF_TICKS, Market, evaluations


def _materialize(
    market: Market, instance: dg.DagsterInstance, table: str, day: str | None
) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(market.platform)
    job = definitions.resolve_implicit_global_asset_job_def()
    key = None if day is None else dg.MultiPartitionKey({"exchange": market.exchange, "day": day})
    return job.execute_in_process(
        partition_key=key, instance=instance, asset_selection=[dg.AssetKey(table)], raise_on_error=False
    )


@pytest.mark.stack
def test_an_open_day_drains_the_tables_topic(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 500)
    result = _materialize(market, instance, "ticks", market.today)
    assert result.success
    (event,) = result.asset_materializations_for_node("ticks")
    assert event.partition == f"{market.today}|{market.exchange}"
    assert event.metadata["caught_up"].value
    assert event.metadata["rows"].value == event.metadata["dagster/row_count"].value > 0  # type: ignore[operator]
    assert event.metadata["run"].value == result.run_id
    mirrored_from = last_report(instance, ("ticks", market.exchange, market.today))
    assert mirrored_from.through == 0, "the mirror still counts these commits"
    lags = {one.dataset: one.lag_messages for one in market.platform.lag.read([market.exchange]).lags}
    assert lags["ticks"] == 0
    assert lags["quotes"] > 0


@pytest.mark.stack
def test_quarantine_drains_every_topic(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 500)
    assert _materialize(market, instance, "quarantine", market.today).success
    assert all(one.lag_messages == 0 for one in market.platform.lag.read([market.exchange]).lags)


@pytest.mark.stack
def test_a_closed_day_is_refused_with_the_reason_and_stays_what_it_is(
    market: Market, instance: dg.DagsterInstance
) -> None:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    key = partition_key(market.exchange, yesterday)
    market.publish(market.exchange, 300)
    instance.report_runless_asset_event(dg.AssetMaterialization("ticks", partition=key))
    before = _partitions(market, instance)
    assert before == ({key}, set(), set())
    result = _materialize(market, instance, "ticks", yesterday)
    assert _partitions(market, instance) == before
    _assert_refused(instance, result, f"{yesterday}: closed", key)
    assert any(one.lag_messages for one in market.platform.lag.read([market.exchange]).lags)


@pytest.mark.stack
def test_a_day_without_data_is_not_marked_by_a_refusal(market: Market, instance: dg.DagsterInstance) -> None:
    result = _materialize(market, instance, "ticks", "2026-01-01")
    _assert_refused(instance, result, "re-derivation", partition_key(market.exchange, "2026-01-01"))
    assert _partitions(market, instance) == (set(), set(), set())


@pytest.mark.stack
def test_a_refused_run_evaluates_the_checks_that_it_had_planned(market: Market, instance: dg.DagsterInstance) -> None:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    definitions = build_definitions(market.platform)
    job = dg.define_asset_job("with_checks", dg.AssetSelection.assets("ticks"))
    result = job.resolve(asset_graph=definitions.resolve_asset_graph()).execute_in_process(
        partition_key=partition_key(market.exchange, yesterday), instance=instance, raise_on_error=False,
        resources={"k2": market.platform, "duckdb": duckdb_resource(market.settings)},
    )  # fmt: skip
    assert len(evaluations(instance, result.run_id)) == CHECKS_OF_TICKS
    for name in evaluations(instance, result.run_id):
        check = dg.AssetCheckKey(dg.AssetKey("ticks"), name)
        (record,) = instance.event_log_storage.get_asset_check_execution_history(check, limit=10)
        assert record.status.value == "SUCCEEDED", "and not: planned and skipped"


@pytest.mark.stack
def test_an_exchange_that_a_process_drives_is_refused(market: Market, instance: dg.DagsterInstance) -> None:
    acquire_lease(market.platform.database, market.exchange, "a-process", stale_seconds=60)
    result = _materialize(market, instance, "ticks", market.today)
    _assert_refused(instance, result, "driven by the process a-process", partition_key(market.exchange, market.today))


@pytest.mark.stack
def test_a_run_without_a_partition_is_refused(market: Market, instance: dg.DagsterInstance) -> None:
    _assert_refused(instance, _materialize(market, instance, "ticks", None), "no partition was given", None)


def _assert_refused(
    instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult, reason: str, partition: str | None
) -> None:
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.CANCELED
    assert any(reason in one.user_message for one in instance.all_logs(result.run_id) if one.level == logging.ERROR)
    observed = instance.fetch_observations(dg.AssetKey("ticks"), limit=1).records
    assert [one.partition_key for one in observed] == ([] if partition is None else [partition])


def _partitions(market: Market, instance: dg.DagsterInstance) -> tuple[set[str], set[str], set[str]]:
    """Materialized, failed and in progress, as the partition grid counts them."""
    partitions = table_partitions(market.platform.profiles)
    with partition_loading_context(None, instance):
        value = get_and_update_asset_status_cache_value(instance, dg.AssetKey("ticks"), partitions)
        if value is None:
            return set(), set(), set()
        return (
            set(value.deserialize_materialized_partition_subsets(partitions).get_partition_keys()),
            set(value.deserialize_failed_partition_subsets(partitions).get_partition_keys()),
            set(value.deserialize_in_progress_partition_subsets(partitions).get_partition_keys()),
        )
