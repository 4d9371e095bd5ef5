"""The checks on real partitions: clean ones pass, planted defects are found."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from k2_dagster.assets.partitions import partition_key
from k2_dagster.definitions import build_definitions
from k2_dagster.jobs import run_checks
from k2_dagster.lake.catalog import load_table
from k2_dagster.resources.lake import duckdb_resource, partition_files
from k2_dagster.schemas.datasets import TABLES
from tests.dagster_support import CHECKS_OF_TICKS, Market, evaluations, run_check_job


def _outcomes(market: Market, instance: dg.DagsterInstance, *tables: str) -> dict[tuple[str, str], bool]:
    found = run_checks(market.platform, instance, [(table, market.exchange, market.today) for table in tables])
    return {(one["table"], one["check"]): one["passed"] for one in found}


@pytest.mark.stack
def test_clean_partitions_pass_and_planted_defects_are_found(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 1_500)
    market.drain(market.exchange)
    clean = _outcomes(market, instance, *TABLES)
    assert all(clean.values()), clean
    assert len(clean) == 5 * 8 + 4
    market.publish(market.exchange, 1_500, faults=("drop:12@1s/ticks", "duplicate:4@1s/quotes"), seed=8)
    market.drain(market.exchange)
    outcomes = _outcomes(market, instance, "ticks", "quotes", "quarantine")
    assert [key for key, passed in outcomes.items() if not passed] == [("ticks", "sequence_gaps")]


@pytest.mark.stack
def test_a_foreign_append_is_found_by_accounting_and_identity(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 300)
    market.drain(market.exchange)
    with partition_files(market.platform, "ticks", market.exchange, market.today) as files:
        rows = pq.read_table(files.paths[0])
    table = load_table(market.platform.catalog, "market_data.ticks")
    table.append(rows.slice(0, 3).cast(table.schema().as_arrow()))
    outcomes = _outcomes(market, instance, "ticks")
    failed = {check for (_, check), passed in outcomes.items() if not passed}
    assert failed == {"accounting", "unique_identity"}


@pytest.mark.stack
def test_what_waits_in_kafka_makes_an_open_day_stale(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 300)
    hasty = market.settings.model_copy(update={"freshness_target_seconds": 0.001})
    market.platform.settings = hasty
    (found,) = [one for one in _checks(market, instance) if one["check"] == "freshness"]
    assert not found["passed"]
    assert found["metadata"]["lag_messages"] > 0
    assert 0 < found["metadata"]["oldest_unlanded_seconds"] < 120
    assert datetime.fromisoformat(found["metadata"]["oldest_unlanded"]).tzinfo == UTC


@pytest.mark.stack
def test_a_failed_check_is_recorded_for_its_partition_with_its_runbook_again_and_again(
    market: Market, instance: dg.DagsterInstance
) -> None:
    market.publish(market.exchange, 1_500, faults=("drop:3@1s/ticks",))
    market.drain(market.exchange)
    for _ in range(2):
        result = run_check_job(market, instance, [("ticks", market.exchange, market.today)])
        found = evaluations(instance, result.run_id)["sequence_gaps"]
        assert not found.passed
        assert found.severity is dg.AssetCheckSeverity.WARN
        assert found.partition == f"{market.today}|{market.exchange}"
        url = market.settings.documentation_url
        assert found.metadata["runbook"].value == f"{url}/runbooks/sequence_gaps.md"
        assert str(found.metadata["what_to_do"].value).startswith("# sequence_gaps")


@pytest.mark.stack
def test_a_partition_that_cannot_be_read_keeps_no_other_from_its_checks(
    market: Market, instance: dg.DagsterInstance
) -> None:
    market.publish(market.exchange, 300)
    market.drain(market.exchange)
    partitions = [("ticks", market.exchange, "2031-01-01"), ("ticks", market.exchange, market.today)]
    result = run_check_job(market, instance, partitions)
    assert not result.success
    assert len(evaluations(instance, result.run_id)) == CHECKS_OF_TICKS


@pytest.mark.stack
def test_materializing_runs_the_checks_of_its_partition(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 300)
    definitions = build_definitions(market.platform)
    selection = dg.AssetSelection.assets("ticks")
    job = dg.define_asset_job("one_table", selection).resolve(asset_graph=definitions.resolve_asset_graph())
    key = dg.MultiPartitionKey({"exchange": market.exchange, "day": market.today})
    result = job.execute_in_process(
        partition_key=key, instance=instance,
        resources={"k2": market.platform, "duckdb": duckdb_resource(market.settings)},
    )  # fmt: skip
    found = {one.check_name: one for one in result.get_asset_check_evaluations()}
    assert len(found) == CHECKS_OF_TICKS
    assert all(one.passed and one.partition == key for one in found.values())
    assert all(one.target_materialization_data is not None for one in found.values())


@pytest.mark.stack
def test_a_run_over_a_range_records_its_checks_for_each_partition(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 1_500, faults=("drop:3@1s/ticks",))
    market.drain(market.exchange)
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    first, last = (partition_key(market.exchange, day) for day in (yesterday, market.today))
    definitions = build_definitions(market.platform)
    checks = dg.AssetSelection.checks_for_assets("ticks")
    job = dg.define_asset_job("only_checks", checks).resolve(asset_graph=definitions.resolve_asset_graph())
    result = job.execute_in_process(
        instance=instance, resources={"k2": market.platform, "duckdb": duckdb_resource(market.settings)},
        tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
    )  # fmt: skip
    found = [(one.partition, one.passed) for one in result.get_asset_check_evaluations()]
    assert sorted(found) == sorted(
        [(first, True)] * CHECKS_OF_TICKS + [(last, True)] * (CHECKS_OF_TICKS - 1) + [(last, False)]
    )


@pytest.mark.stack
def test_checks_that_are_executed_without_a_partition_are_those_of_today(
    market: Market, instance: dg.DagsterInstance
) -> None:
    market.publish(market.exchange, 300)
    market.drain(market.exchange)
    definitions = build_definitions(market.platform)
    checks = dg.AssetSelection.checks_for_assets("ticks")
    job = dg.define_asset_job("only_checks", checks).resolve(asset_graph=definitions.resolve_asset_graph())
    result = job.execute_in_process(
        instance=instance, resources={"k2": market.platform, "duckdb": duckdb_resource(market.settings)}
    )
    key = f"{market.today}|{market.exchange}"
    assert [one.partition for one in result.get_asset_check_evaluations()] == [key] * CHECKS_OF_TICKS


def _checks(market: Market, instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    return run_checks(market.platform, instance, [("ticks", market.exchange, market.today)])
