"""Recovered messages of a channel, and the word that its numbers came late. Pure.

A channel's rows are followed from feed to table by their publisher pair, and what was missed has none. It gets one that
says what it is: the session is named after the chunk of the channel, the numbers count the rows of a symbol in it. So a
chunk that is published again is known as a duplicate, and each of its messages by its number too, whoever else brings
it. A chunk is published only whole, or when the source has no more of it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from k2_dagster.feeds.capture.block import timestamps, wire_batch
from k2_dagster.feeds.numbering import Numbering
from k2_dagster.feeds.recovery.covering import Range
from k2_dagster.feeds.recovery.source import MissingRange
from k2_dagster.schemas.control import NO_SYMBOL
from k2_dagster.schemas.topics import CONTROL_DATASET
from k2_dagster.state.times import to_micros

# Names of sessions have at most 64 characters, channels and their sessions too: a digest of the three fits.
DIGEST_BYTES = 12
# What the feed handler says when numbers of a gap came after all; ingest fills the gap with each number once.
LATE = "late"


def identified(rows: pa.RecordBatch, chunk: MissingRange) -> pa.RecordBatch:
    """Rows of one chunk of a channel with their pair. The same rows give the same."""
    place = f"{chunk.exchange}/{chunk.channel}/{chunk.session}/{chunk.first}"
    session = f"recovered-{hashlib.blake2b(place.encode(), digest_size=DIGEST_BYTES).hexdigest()}"
    numbers = Numbering().next_numbers(rows.column("symbol"))
    out = _with(rows, "publisher_sequence", numbers)
    return _with(out, "publisher_session", pa.repeat(session, rows.num_rows))


def late_rows(gap: Mapping[str, Any], ranges: Sequence[Range]) -> pa.RecordBatch:
    """Rows of control that say which numbers of a channel's gap (a row of `k2.gaps`) were recovered."""
    columns = {
        "exchange": gap["exchange"],
        "stream": gap["stream"],
        "kind": LATE,
        "symbol": gap["symbol"] or NO_SYMBOL,
        "session": gap["session"] or None,
        "channel": gap["channel"] or None,
        "exchange_timestamp": timestamps([to_micros(gap["to_time"]) or 0] * len(ranges)),
        "first_sequence": [first for first, _ in ranges],
        "last_sequence": [last for _, last in ranges],
        "reason": "recovered",
    }
    return wire_batch(CONTROL_DATASET, len(ranges), columns)


def _with(rows: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(place), values)
