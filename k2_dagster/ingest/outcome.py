"""What a batch becomes, and its accounts: ranges with counts and digests, the columns that ingest adds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest import kernel
from k2_dagster.ingest.columns import Codes
from k2_dagster.ingest.refusal import Refusal
from k2_dagster.ingest.rows import Stamp
from k2_dagster.ingest.rules import Validated
from k2_dagster.ingest.tracker import Input, Verdicts
from k2_dagster.kafka.batch import RawBatch
from k2_dagster.schemas.common import ORIGIN_HEADER, ORIGINS
from k2_dagster.state.attempts import Range
from k2_dagster.state.ledger import Change

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Topic:
    """The topic being drained: its incarnation, and which partitions were read from their very beginning."""

    name: str
    topic_id: str
    epoch: int
    strict_partitions: frozenset[int]


@dataclass(frozen=True, slots=True)
class Held:
    """What quarantine already holds of the range: offset -> reason, per partition (D20: not appended again)."""

    reasons: Mapping[int, Mapping[int, str]] = field(default_factory=dict)

    def of(self, partition: int, offset: int) -> str | None:
        """The reason under which quarantine holds this offset, if it does."""
        return self.reasons.get(partition, {}).get(offset)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch becomes. `days` maps YYYY-MM-DD to the rows of that day, in file order; `halted` are the partitions
    that end here because a gap is critical."""

    days: Mapping[str, pa.Table]
    quarantine: pa.Table
    ranges: list[Range]
    quarantine_ranges: list[Range]
    counts: dict[str, Any]
    schema_ids: list[int]
    ledger: list[Change]
    state: bytes
    halted: frozenset[int] = frozenset()


def stamps(topic: Topic, rules_version: int, raw: RawBatch, schema_ids: Int64s, now: datetime) -> dict[str, Stamp]:
    """Columns that ingest adds, per message of the raw batch."""
    # without headers every message is live, and a column of one value costs nothing
    origin = Codes(np.zeros(len(raw), dtype=np.int32), list(ORIGINS) if raw.headers else [ORIGINS[0]])
    for row, headers in raw.headers.items():
        named = dict(headers).get(ORIGIN_HEADER)
        text = named.decode(errors="replace") if named else ORIGINS[0]
        origin.indices[row] = ORIGINS.index(text) if text in ORIGINS else 0
    return {
        "kafka_timestamp": raw.timestamp_ms * 1000,
        "ingest_timestamp": int(now.timestamp() * 1_000_000),
        "origin": origin,
        "topic_epoch": topic.epoch,
        # of their own: the batch's memory is used again while these rows are written
        "kafka_partition": raw.partition.copy(),
        "kafka_offset": raw.offset.copy(),
        "schema_id": schema_ids.astype(np.int32),
        "rules_version": rules_version,
    }


def outcome_counts(
    raw: RawBatch,
    landed_at: Int64s,
    refusals: list[Refusal],
    held: Mapping[int, str],
    verdicts: Verdicts,
    rows: Input,
    checked: Validated,
) -> dict[str, Any]:
    """What the attempt says of the batch as a whole."""
    reasons: dict[str, int] = {}
    for reason in [*(one.reason for one in refusals), *held.values()]:
        reasons[reason] = reasons.get(reason, 0) + 1
    good = rows.flag == kernel.GOOD
    return {
        "consumed": len(raw),
        "rows": len(landed_at),
        "quarantined": len(refusals) + len(held),
        "duplicates": reasons.get("duplicate", 0),
        "late": int((good & (verdicts.verdict == kernel.LATE)).sum()),
        "reasons": reasons,
        "rules": dict(checked.broken_rules),
        "newest_kafka_timestamp_ms": int(raw.timestamp_ms.max(initial=0)),
    }


def int64_values(array: pa.Array, missing: int = 0) -> Int64s:
    """The column's integers (or microseconds), with `missing` for nulls."""
    whole = array.view(pa.int64()) if pa.types.is_timestamp(array.type) else array
    filled = whole.fill_null(missing) if whole.null_count else whole
    out: Int64s = filled.to_numpy(zero_copy_only=False)
    return out


def valid(array: pa.Array) -> npt.NDArray[np.bool_]:
    """Which values are not null."""
    if array.null_count == 0:
        return np.ones(len(array), dtype=bool)
    out: npt.NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return out
