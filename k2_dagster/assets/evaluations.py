"""Findings as Dagster's events: for their partition, about its newest materialization, with their runbook."""

from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as Target,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

from k2_dagster.assets.check_findings import Finding
from k2_dagster.assets.partitions import Partition, partition_key, split

# In a checkout the pages are beside the package; an installed wheel has only the address.
RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
# When and by which run a failure was found that is logged again because it still stands.
FOUND_AT, FOUND_BY = "found_at", "found_by"


def newest_materialization(instance: dg.DagsterInstance, partition: Partition) -> Target | None:
    """What an evaluation must name to count as one of the partition's present state; None when there is none."""
    dataset, exchange, day = partition
    of_partition = dg.AssetRecordsFilter(dg.AssetKey(dataset), asset_partitions=[partition_key(exchange, day)])
    records = instance.fetch_materializations(of_partition, limit=1).records
    return _target(records[0]) if records else None


def evaluation(
    partition: Partition, found: Finding, target: Target | None, documentation_url: str
) -> dg.AssetCheckEvaluation:
    """The finding as an event for the partition, to be logged inside a run."""
    dataset, exchange, day = partition
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(dataset),
        check_name=found.check,
        passed=found.passed,
        severity=dg.AssetCheckSeverity(found.severity),
        description=found.summary,
        metadata=_metadata(found, documentation_url),
        target_materialization_data=target,
        partition=partition_key(exchange, day),
    )


def carried_on(instance: dg.DagsterInstance, found: AssetCheckExecutionRecord) -> dg.AssetCheckEvaluation:
    """A failure found earlier, as one of the partition's newest materialization; it says when it was found, by whom."""
    old = found.evaluation
    assert old is not None
    assert old.partition is not None
    since: dict[str, Any] = {FOUND_AT: dg.MetadataValue.timestamp(found.create_timestamp)}
    if found.run_id:
        since[FOUND_BY] = dg.MetadataValue.dagster_run(found.run_id)
    return dg.AssetCheckEvaluation(
        asset_key=old.asset_key,
        check_name=old.check_name,
        passed=old.passed,
        severity=old.severity,
        description=old.description,
        # what the failure says of itself stands over what is added to it
        metadata={**since, **old.metadata},
        target_materialization_data=newest_materialization(
            instance, (old.asset_key.to_user_string(), *split(old.partition))
        ),
        partition=old.partition,
    )


def _target(record: dg.EventLogRecord) -> Target:
    return Target(storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp)


def _metadata(found: Finding, documentation_url: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        name: dg.MetadataValue.json(value) if isinstance(value, list | dict) else value
        for name, value in found.metadata.items()
    }
    if not found.passed:
        shown["runbook"] = dg.MetadataValue.url(runbook_url(found.check, documentation_url))
        page = RUNBOOKS / f"{found.check}.md"
        if page.is_file():
            shown["what_to_do"] = dg.MetadataValue.md(page.read_text(encoding="utf-8"))
    return shown


def runbook_url(check: str, documentation_url: str) -> str:
    """Address of a check's runbook page."""
    return f"{documentation_url.rstrip('/')}/runbooks/{check}.md"
