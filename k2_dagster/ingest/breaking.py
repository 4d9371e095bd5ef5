"""Where a batch has to end because a gap is critical, and where a partition goes on behind one (DESIGN D18). Pure.

A partition halts behind the message that showed the gap: with it the gap is on record, and nothing that came later is
taken before somebody has said that it may be. Which message that is does not depend on how messages were batched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2_dagster.ingest.outcome import Outcome
from k2_dagster.kafka.batch import RawBatch
from k2_dagster.state.breakers import BreakerOpens, Breakers
from k2_dagster.state.gaps import LedgerChange
from k2_dagster.state.holds import HoldEnds
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


def resumed(outcome: Outcome, known: Breakers, epoch: int) -> tuple[Outcome, Breakers]:
    """The outcome with the ends of holds behind which it has the first row, and what is known then. What was refused
    ends none: it says no time that can be trusted."""
    ends = [
        HoldEnds("resume", epoch, partition, "halted", from_offset, *first)
        for partition, offsets in known.resuming.items()
        for from_offset in offsets
        if (first := _first_row(outcome.days, partition, from_offset)) is not None
    ]
    if not ends:
        return outcome, known
    over = {(one.kafka_partition, one.from_offset) for one in ends}
    left = {
        partition: tuple(one for one in offsets if (partition, one) not in over)
        for partition, offsets in known.resuming.items()
    }
    resuming = {partition: offsets for partition, offsets in left.items() if offsets}
    return replace(outcome, ledger=[*ends, *outcome.ledger]), replace(known, resuming=resuming)


def _first_row(days: Mapping[str, pa.Table], partition: int, from_offset: int) -> tuple[int, int] | None:
    """Offset and venue's time of the first row of a partition from an offset on."""
    found = []
    for rows in days.values():
        behind = pc.and_(
            pc.equal(rows.column("kafka_partition"), partition),
            pc.greater_equal(rows.column("kafka_offset"), from_offset),
        )
        chosen = rows.select(["kafka_offset", "exchange_timestamp"]).filter(behind)
        if chosen.num_rows:
            place = int(np.argmin(chosen.column("kafka_offset").to_numpy()))
            offset, micros = (chosen.column(name).cast(pa.int64())[place].as_py() for name in chosen.column_names)
            found.append((offset, micros))
    return min(found, default=None)


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
