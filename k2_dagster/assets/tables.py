"""The Iceberg tables as assets, partitioned as they are: exchange x UTC day.

Rows arrive by drain runs and by `k2 ingest`, whose commits the `commits` sensor mirrors as materializations. To
materialize a partition by hand means "make it what the messages and today's rules say": an open day drains, a closed
one is refused (see `refusals.py`).
"""

from typing import Any

import dagster as dg
from dagster_duckdb import DuckDBResource

from k2_dagster import __version__
from k2_dagster.assets.columns import COLUMN_SCHEMA, column_schema
from k2_dagster.assets.draining import drain
from k2_dagster.assets.failures import as_failures
from k2_dagster.assets.landed import commits_of_run, landed_metadata, partition_size
from k2_dagster.assets.partitions import EXCHANGE, Partition, partition_key, split, table_partitions
from k2_dagster.assets.refusals import refusal, refuse
from k2_dagster.assets.topics import OWNERS, topic_key
from k2_dagster.assets.unstable import knowingly_unstable
from k2_dagster.resources.platform import Platform
from k2_dagster.schemas.datasets import TABLES, WIRE_DATASETS, table_name
from k2_dagster.schemas.declaration import Dataset
from k2_dagster.schemas.profiles import Profiles

GROUP = "market_data"


def table_assets(profiles: Profiles) -> list[dg.AssetsDefinition]:
    """One asset per table."""
    with knowingly_unstable():
        return [_table_asset(dataset, profiles) for dataset in TABLES.values()]


def topics_of(dataset: str) -> tuple[str, ...]:
    """The datasets whose topics a table is filled from: its own; every one for quarantine."""
    return (dataset,) if dataset in WIRE_DATASETS else tuple(WIRE_DATASETS)


def _table_asset(dataset: Dataset, profiles: Profiles) -> dg.AssetsDefinition:
    by_exchange = dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name=EXCHANGE)

    @dg.asset(
        key=dg.AssetKey(dataset.name),
        description=f"{dataset.doc}. Table `{table_name(dataset.name)}`, one row per message.",
        deps=[dg.AssetDep(topic_key(one), partition_mapping=by_exchange) for one in topics_of(dataset.name)],
        partitions_def=table_partitions(profiles),
        # A run per partition: only then are the checks that come with it those of the partition
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"iceberg", "parquet"},
        code_version=__version__,
        metadata={
            COLUMN_SCHEMA: column_schema(dataset),
            "dagster/table_name": table_name(dataset.name),
            "partition_time": dataset.partition_time,
        },
    )
    def table(context: dg.AssetExecutionContext, k2: dg.ResourceParam[Platform], duckdb: DuckDBResource) -> None:
        given = context.has_partition_key or context.has_partition_key_range
        partitions = [(dataset.name, *split(key)) for key in context.partition_keys] if given else []
        with as_failures():
            if (reason := refusal(k2, dataset.name, partitions)) is not None:
                refuse(context, k2, duckdb, dataset.name, partitions, reason)
        for exchange in sorted({one[1] for one in partitions}):
            wanted = [one for one in topics_of(dataset.name) if one in k2.profiles.exchange(exchange).datasets]
            report = drain(context, k2, exchange, wanted, k2.settings.ingest_run_cap_seconds)
            for partition in [one for one in partitions if one[1] == exchange]:
                with as_failures():
                    shown = _by_hand(k2, partition, context.run.run_id)
                key = partition_key(*partition[1:])
                context.add_asset_metadata(shown | {"caught_up": report.caught_up}, partition_key=key)

    return table


def _by_hand(k2: Platform, partition: Partition, run_id: str) -> dict[str, Any]:
    """What this run landed in the partition, under the names that mirrored materializations use. Without the position
    that those count through: the mirror counts these commits, as it counts all."""
    found = commits_of_run(k2.database, partition, run_id)
    return landed_metadata(k2.database, partition, found, partition_size(k2, partition))
