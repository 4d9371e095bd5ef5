"""The Kafka topics as external assets: one per dataset, partitioned by exchange. Feeds fill them."""

import dagster as dg

from k2_dagster.assets.columns import COLUMN_SCHEMA, wire_column_schema
from k2_dagster.assets.partitions import exchange_partitions
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.topics import topic_name

GROUP = "kafka"
OWNERS = ["team:market-data"]


def topic_key(dataset: str) -> dg.AssetKey:
    """`ticks` -> `kafka/ticks`."""
    return dg.AssetKey(["kafka", dataset])


def topic_specs(profiles: Profiles) -> list[dg.AssetSpec]:
    """One spec per dataset with a wire form."""
    partitions = exchange_partitions(profiles)
    return [
        dg.AssetSpec(
            topic_key(dataset.name),
            description=f"{dataset.doc}, as messages on `{topic_name(dataset.name, '{exchange}')}`.",
            group_name=GROUP,
            owners=OWNERS,
            kinds={"kafka", "avro"},
            partitions_def=partitions,
            metadata={
                COLUMN_SCHEMA: wire_column_schema(dataset),
                "topic": topic_name(dataset.name, "{exchange}"),
            },
        )
        for dataset in WIRE_DATASETS.values()
    ]
