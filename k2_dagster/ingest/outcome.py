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
from k2_dagster.ingest.decode import DecodedBatch
from k2_dagster.ingest.refusal import Refusal
from k2_dagster.ingest.rules import Validated
from k2_dagster.ingest.tracker import Input, Verdicts
from k2_dagster.kafka.batch import RawBatch
from k2_dagster.schemas.common import ORIGIN_HEADER, ORIGINS
from k2_dagster.schemas.digest import row_digests, total
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


def stamps(
    topic: Topic, rules_version: int, raw: RawBatch, at: Int64s, schema_ids: Int64s, now: datetime
) -> dict[str, pa.Array]:
    """Columns that ingest adds to the rows at these places of the raw batch."""
    count = len(at)
    # without headers every message is live, and a column of one value costs nothing
    origin = Codes(np.zeros(len(raw), dtype=np.int32), list(ORIGINS) if raw.headers else [ORIGINS[0]])
    for row, headers in raw.headers.items():
        named = dict(headers).get(ORIGIN_HEADER)
        text = named.decode(errors="replace") if named else ORIGINS[0]
        origin.indices[row] = ORIGINS.index(text) if text in ORIGINS else 0
    micros = pa.timestamp("us", tz="UTC")
    return {
        "kafka_timestamp": pa.array(raw.timestamp_ms[at] * 1000, pa.int64()).view(micros),
        "ingest_timestamp": pa.array(np.full(count, int(now.timestamp() * 1_000_000))).view(micros),
        "origin": origin.take(at).arrow(),
        "topic_epoch": pa.array(np.full(count, topic.epoch, dtype=np.int32)),
        "kafka_partition": pa.array(raw.partition[at]),
        "kafka_offset": pa.array(raw.offset[at]),
        "schema_id": pa.array(schema_ids[at].astype(np.int32)),
        "rules_version": pa.array(np.full(count, rules_version, dtype=np.int32)),
    }


def committed_ranges(
    topic: Topic,
    raw: RawBatch,
    decoded: DecodedBatch,
    landed: npt.NDArray[np.bool_],
    refused: npt.NDArray[np.bool_],
    starts: Mapping[int, int],
) -> list[Range]:
    """One range per partition that the batch moved, with what became of its messages. `landed` and `refused` are per
    raw message, `starts` the positions before the batch."""
    digests = _digests_of_rows(raw, decoded, landed)
    at = np.flatnonzero(refused)
    quarantine = row_digests([raw.partition[at].astype(np.int64), raw.offset[at]])
    out = []
    for partition, end in sorted(raw.positions.items()):
        start = starts[partition]
        if end == start:
            continue
        mine = raw.partition == partition
        refused_here = mine[at]
        landed_here = mine & landed
        out.append(
            Range(
                topic=raw.topic,
                topic_id=topic.topic_id,
                topic_epoch=topic.epoch,
                partition=partition,
                start=start,
                end=end,
                consumed=int(mine.sum()),
                rows=int(landed_here.sum()),
                quarantined=int(refused_here.sum()),
                digest=total(digests[landed_here]),
                quarantine_digest=total(quarantine[refused_here]),
            )
        )
    return out


def _digests_of_rows(raw: RawBatch, decoded: DecodedBatch, landed: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Per raw message; zeros where nothing was decoded. Where nothing lands there is nothing to compute."""
    digests = np.zeros(len(raw), dtype=np.uint64)
    if landed.any():
        columns = (
            raw.partition[decoded.rows].astype(np.int64),
            raw.offset[decoded.rows],
            int64_values(decoded.wire.column("exchange_timestamp")),
            int64_values(decoded.wire.column("sequence"), -1),
            int64_values(decoded.wire.column("publisher_sequence"), -1),
        )
        digests[decoded.rows] = row_digests(columns)
    return digests


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
