"""One multi-asset check per table, partitioned, which reads a partition once; and the same evaluation for jobs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from k2_dagster.assets.check_facts import gather
from k2_dagster.assets.check_findings import Finding, judge, rules_for
from k2_dagster.assets.failures import as_failures
from k2_dagster.assets.partitions import parse_partition, partition_key, split, table_partitions
from k2_dagster.assets.unstable import knowingly_unstable
from k2_dagster.resources.platform import Platform
from k2_dagster.schemas.datasets import TABLES
from k2_dagster.schemas.profiles import Profiles

RUNBOOKS_URL = "https://github.com/k2-dagster/k2/blob/main/docs/runbooks"
# In a checkout the pages are beside the package; an installed wheel has only the address.
RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"


def table_checks(profiles: Profiles) -> list[dg.AssetChecksDefinition]:
    """The checks of every table."""
    with knowingly_unstable():
        return [_checks_of(dataset, profiles) for dataset in TABLES]


def findings(platform: Platform, duckdb: DuckDBResource, dataset: str, exchange: str, day: str) -> list[Finding]:
    """Every check of one partition, evaluated now.

    Raises ConfigurationError (no such exchange or day), NotInitialized, QueryRefused, or a transient error.
    """
    parse_partition(platform.profiles, exchange, day)
    facts = gather(platform, duckdb, dataset, exchange, day)
    return judge(facts, platform.settings.freshness_target_seconds)


def evaluation(dataset: str, exchange: str, day: str, found: Finding) -> dg.AssetCheckEvaluation:
    """The finding as an event for the partition, to be logged inside a run."""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(dataset),
        check_name=found.check,
        passed=found.passed,
        severity=dg.AssetCheckSeverity(found.severity),
        description=found.summary,
        metadata=_metadata(found),
        partition=partition_key(exchange, day),
    )


def _checks_of(dataset: str, profiles: Profiles) -> dg.AssetChecksDefinition:
    partitions = table_partitions(profiles)
    specs = [
        dg.AssetCheckSpec(
            name, asset=dg.AssetKey(dataset), description=rule.description, partitions_def=partitions,
            metadata={"runbook": dg.MetadataValue.url(runbook_url(name))},
        )
        for name, rule in rules_for(dataset).items()
    ]  # fmt: skip

    @dg.multi_asset_check(name=f"{dataset}_checks", specs=specs, can_subset=True)
    def check(
        context: dg.AssetCheckExecutionContext, k2: dg.ResourceParam[Platform], duckdb: DuckDBResource
    ) -> Iterator[dg.AssetCheckResult]:
        wanted = {one.name for one in context.selected_asset_check_keys}
        by_partition = {}
        with as_failures():
            for key in context.partition_keys:
                by_partition[key] = findings(k2, duckdb, dataset, *split(key))
        for name in sorted(wanted):
            yield _worst(name, [next(one for one in found if one.check == name) for found in by_partition.values()])

    return check


def _worst(name: str, found: list[Finding]) -> dg.AssetCheckResult:
    """One result for all partitions of the run: Dagster takes a single one. A range run shows its worst partition."""
    ranked = sorted(found, key=lambda one: (one.passed, one.severity != "ERROR"))
    worst = ranked[0]
    summary = worst.summary if len(found) == 1 else f"worst of {len(found)} partitions: {worst.summary}"
    return dg.AssetCheckResult(
        check_name=name,
        passed=worst.passed,
        severity=dg.AssetCheckSeverity(worst.severity),
        description=summary,
        metadata=_metadata(worst),
    )


def _metadata(found: Finding) -> dict[str, Any]:
    shown: dict[str, Any] = {
        name: dg.MetadataValue.json(value) if isinstance(value, list | dict) else value
        for name, value in found.metadata.items()
    }
    if not found.passed:
        shown["runbook"] = dg.MetadataValue.url(runbook_url(found.check))
        page = RUNBOOKS / f"{found.check}.md"
        if page.is_file():
            shown["what_to_do"] = dg.MetadataValue.md(page.read_text(encoding="utf-8"))
    return shown


def runbook_url(check: str) -> str:
    """Address of a check's runbook page."""
    return f"{RUNBOOKS_URL}/{check}.md"
