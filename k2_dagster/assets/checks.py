"""One multi-asset check per table, partitioned, which reads a partition once."""

from collections.abc import Iterator

import dagster as dg
from dagster_duckdb import DuckDBResource

from k2_dagster.assets.check_findings import rules_for
from k2_dagster.assets.evaluating import evaluate, record
from k2_dagster.assets.evaluations import runbook_url
from k2_dagster.assets.failures import as_failures
from k2_dagster.assets.landed import landed_today
from k2_dagster.assets.partitions import split, table_partitions
from k2_dagster.assets.unstable import knowingly_unstable
from k2_dagster.resources.platform import Platform
from k2_dagster.schemas.datasets import TABLES
from k2_dagster.schemas.profiles import Profiles


def table_checks(profiles: Profiles, documentation_url: str) -> list[dg.AssetChecksDefinition]:
    """The checks of every table."""
    with knowingly_unstable():
        return [_checks_of(dataset, profiles, documentation_url) for dataset in TABLES]


def _checks_of(dataset: str, profiles: Profiles, documentation_url: str) -> dg.AssetChecksDefinition:
    partitions = table_partitions(profiles)
    specs = [
        dg.AssetCheckSpec(
            name, asset=dg.AssetKey(dataset), description=rule.description, partitions_def=partitions,
            metadata={"runbook": dg.MetadataValue.url(runbook_url(name, documentation_url))},
        )
        for name, rule in rules_for(dataset).items()
    ]  # fmt: skip

    @dg.multi_asset_check(name=f"{dataset}_checks", specs=specs, can_subset=True)
    def check(
        context: dg.AssetCheckExecutionContext, k2: dg.ResourceParam[Platform], duckdb: DuckDBResource
    ) -> Iterator[dg.AssetCheckResult]:
        run = context.op_execution_context
        if run.has_partition_key or run.has_partition_key_range:
            chosen = [(dataset, *split(key)) for key in context.partition_keys]
        else:
            # "Execute all" in the UI knows no partition
            chosen = landed_today(k2, dataset)
        names = {one.name for one in context.selected_asset_check_keys}
        with as_failures():
            done = evaluate(k2, duckdb, chosen)
            record(context.instance, k2, run.log_event, done.checked, only=names)  # type: ignore[arg-type]
            for error in done.errors.values():
                raise error
        # Dagster takes one result for all partitions of a run, so each is logged as an event of its own
        yield from ()

    return check
