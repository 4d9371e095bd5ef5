"""Where a batch has to end because a gap is critical (DESIGN D18). Pure.

A partition halts behind the message that showed the gap: with it the gap is on record, and nothing that came later is
taken before somebody has said that it may be. Which message that is does not depend on how messages were batched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from k2_dagster.kafka.batch import RawBatch
from k2_dagster.state.breakers import BreakerOpens, Breakers
from k2_dagster.state.gaps import LedgerChange
from k2_dagster.state.ledger import Change

CRITICAL_LEVEL = "halt"
_MICROS_PER_MS = 1_000


def critical_gaps(changes: Sequence[Change], known: Breakers) -> dict[int, LedgerChange]:
    """By partition, the first gap that halts it; none whose message was acknowledged."""
    out: dict[int, LedgerChange] = {}
    for change in changes:
        if not isinstance(change, LedgerChange) or change.change != "report" or change.level != CRITICAL_LEVEL:
            continue
        partition, offset = change.kafka_partition, change.reported_offset
        first = out.get(partition)
        if not known.passes(partition, offset) and (first is None or offset < first.reported_offset):
            out[partition] = change
    return out


def opening(gap: LedgerChange) -> BreakerOpens:
    """The breaker of a critical gap."""
    at_micros = gap.after_micros if gap.after_micros is not None else (gap.seen_ms or 0) * _MICROS_PER_MS
    return BreakerOpens(
        change="halt",
        numbering=gap.numbering,
        stream=gap.stream,
        kind=gap.kind,
        session=gap.session,
        symbol=gap.symbol,
        first_sequence=gap.first_sequence,
        last_sequence=gap.last_sequence,
        missing=gap.missing,
        topic_epoch=gap.topic_epoch,
        kafka_partition=gap.kafka_partition,
        kafka_offset=gap.reported_offset,
        at_micros=at_micros,
    )


def cut(raw: RawBatch, ends: Mapping[int, int]) -> RawBatch:
    """The batch without what lies at or behind these offsets of some partitions."""
    limits = np.full(int(raw.partition.max(initial=-1)) + 1, np.iinfo(np.int64).max, dtype=np.int64)
    for partition, end in ends.items():
        if partition < len(limits):
            limits[partition] = end
    kept = np.flatnonzero(raw.offset < limits[raw.partition])
    rows = pa.array(kept)
    places = np.full(len(raw), -1, dtype=np.int64)
    places[kept] = np.arange(len(kept))
    return replace(
        raw,
        partition=raw.partition[kept],
        offset=raw.offset[kept],
        timestamp_ms=raw.timestamp_ms[kept],
        keys=raw.keys.take(rows),
        values=raw.values.take(rows),
        headers={int(places[row]): found for row, found in raw.headers.items() if places[row] >= 0},
        positions={key: min(at, ends.get(key, at)) for key, at in raw.positions.items()},
    )
