"""Refused messages as rows of the quarantine table: original bytes, position, reason (DESIGN D20)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest.columns import Codes
from k2_dagster.ingest.decode import NO_SCHEMA
from k2_dagster.ingest.duplicates import First, optional_offsets
from k2_dagster.ingest.refusal import Refusal
from k2_dagster.kafka.batch import RawBatch
from k2_dagster.schemas.arrow import TIMESTAMP, table_schema
from k2_dagster.schemas.quarantine import QUARANTINE


class TopicLike(Protocol):
    """What a quarantine row says of its topic."""

    @property
    def name(self) -> str: ...

    @property
    def epoch(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Quarantined:
    """The refused messages of a batch."""

    raw: RawBatch
    refusals: list[Refusal]
    schema_ids: npt.NDArray[np.int64]
    symbols: Codes
    firsts: Mapping[int, First]


def quarantine_table(
    batch: Quarantined, exchange: str, dataset: str, topic: TopicLike, rules_version: int, now: datetime
) -> pa.Table:
    """Rows of the quarantine table, in (topic, partition, offset) order. Messages are few, so a loop is fine."""
    raw = batch.raw
    ordered = sorted(batch.refusals, key=lambda one: (raw.partition[one.row], raw.offset[one.row]))
    rows = [one.row for one in ordered]
    at = np.array(rows, dtype=np.int64)
    count = len(rows)
    schema_ids = batch.schema_ids[at]
    columns = {
        "exchange": [exchange] * count,
        "dataset": [dataset] * count,
        "topic": [topic.name] * count,
        "symbol": [batch.symbols.values[batch.symbols.indices[row]] for row in rows],
        "reason": [one.reason for one in ordered],
        "detail": [one.detail for one in ordered],
        "first_offset": optional_offsets(dict(batch.firsts), rows),
        "key": raw.keys.take(pa.array(at)),
        "value": _values(batch, rows),
        "headers": [[{"name": name, "value": value} for name, value in raw.headers.get(row, [])] for row in rows],
        "kafka_timestamp": pa.array(raw.timestamp_ms[at] * 1000, pa.int64()).view(TIMESTAMP),
        "ingest_timestamp": [now] * count,
        "topic_epoch": [topic.epoch] * count,
        "kafka_partition": raw.partition[at],
        "kafka_offset": raw.offset[at],
        "schema_id": [None if one == NO_SCHEMA or one >= 2**31 else one for one in schema_ids.tolist()],
        "rules_version": [rules_version] * count,
    }
    schema = table_schema(QUARANTINE)
    arrays = [
        columns[field.name] if isinstance(columns[field.name], pa.Array) else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _values(batch: Quarantined, rows: list[int]) -> pa.Array:
    kept = [
        None if row in batch.firsts and batch.firsts[row].same_bytes else batch.raw.values[row].as_py() for row in rows
    ]
    return pa.array(kept, pa.binary())
