"""The Iceberg tables as assets, partitioned as they are: exchange x UTC day.

Rows arrive by drain runs and by `k2 ingest`, whose commits the `commits` sensor mirrors as materializations. To
materialize a partition by hand means "make it what the messages and today's rules say": an open day drains.
"""

import dagster as dg

from k2_dagster import __version__
from k2_dagster.assets.columns import COLUMN_SCHEMA, column_schema
from k2_dagster.assets.draining import drain
from k2_dagster.assets.partitions import EXCHANGE, is_open, split, table_partitions
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
        # One run per exchange of a range: Dagster holds one dimension constant
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"iceberg", "parquet"},
        code_version=__version__,
        metadata={
            COLUMN_SCHEMA: column_schema(dataset),
            "dagster/table_name": table_name(dataset.name),
            "partition_time": dataset.partition_time,
        },
        op_tags={"k2/lane": "ingest"},
    )
    def table(context: dg.AssetExecutionContext, k2: dg.ResourceParam[Platform]) -> None:
        given = context.has_partition_key or context.has_partition_key_range
        keys = [split(key) for key in context.partition_keys] if given else []
        _refuse_closed(dataset.name, keys)
        for exchange in sorted({exchange for exchange, _ in keys}):
            wanted = [one for one in topics_of(dataset.name) if one in k2.profiles.exchange(exchange).datasets]
            report = drain(
                k2, exchange, wanted, k2.settings.ingest_run_cap_seconds, context.run.run_id, context.log
            )  # fmt: skip
            for key in context.partition_keys:
                if split(key)[0] == exchange:
                    context.add_asset_metadata(
                        {
                            "drained_rows": report.rows,
                            "drained_quarantined": report.quarantined,
                            "drained_commits": report.commits,
                            "caught_up": report.caught_up,
                        },
                        partition_key=key,
                    )

    return table


def _refuse_closed(dataset: str, keys: list[tuple[str, str]]) -> None:
    """Nothing is drained when one of the partitions cannot be made: half a backfill would look like a whole one."""
    closed = sorted({day for _, day in keys if not is_open(day)})
    if not keys or closed:
        what = f"{', '.join(closed)}: closed" if closed else "no partition was given"
        raise dg.Failure(
            description=f"{dataset}: {what}. Only an open day (today, UTC) can be materialized by hand, which drains "
            "its exchange. Late messages of closed days land by themselves; making a closed day again from its "
            "messages (re-derivation) does not exist yet.",
            allow_retries=False,
        )
