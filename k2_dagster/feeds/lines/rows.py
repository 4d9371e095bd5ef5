"""Delivered messages as a block of rows: what the feed handler judges, and what is published."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from k2_dagster.feeds.capture.block import Block, Refusal, Rows, timestamps, unchecked_batch
from k2_dagster.feeds.lines.arbitration import Delivery
from k2_dagster.feeds.mold.messages import Decoded, Place, decode_messages, placed
from k2_dagster.schemas.common import RECEIVER_CLOCK, TIME_SOURCE_FIELD
from k2_dagster.schemas.control import NO_SYMBOL
from k2_dagster.schemas.refused import VenueIdentity
from k2_dagster.schemas.topics import CONTROL_DATASET

Int64s = NDArray[np.int64]
_NANOS_PER_MICRO = 1_000


@dataclass(frozen=True, slots=True)
class Origin:
    """Which channel of which exchange; `stream` stands for what tells none itself."""

    exchange: str
    channel: str
    stream: str


@dataclass(frozen=True)
class _Numbered:
    """One entry per message, and one per announcement (`message` -1)."""

    sessions: list[str]
    numbers: Int64s
    micros: Int64s
    message: Int64s
    messages: list[bytes]


def block_of(origin: Origin, deliveries: Sequence[Delivery], clock_offset_nanos: int, first: int) -> Block:
    """The deliveries in their order as inputs `first`, `first` + 1, ...; wall time is their nanoseconds and the offset.

    What a message cannot be read of counts as arrived, and is refused with its bytes.
    """
    all_ = _numbered(deliveries, clock_offset_nanos)
    decoded = decode_messages(all_.messages)
    at = np.flatnonzero(all_.message >= 0)
    rows = {}
    for dataset, (places, batch) in decoded.rows.items():
        where = at[places]
        sessions = pa.array([all_.sessions[one] for one in where.tolist()], pa.string())
        place = Place(origin.exchange, origin.channel, sessions, all_.numbers[where], all_.micros[where])
        rows[dataset] = Rows(placed(batch, place), first + where)
    refusals = [
        Refusal(first + int(at[place]), int(all_.numbers[at[place]]), all_.messages[place], reason,
                identity=_identity(origin, all_, int(at[place])))
        for place, reason in sorted(decoded.refused.items())
    ]  # fmt: skip
    arrivals = Rows(_arrivals(origin, all_, decoded, at), first + np.arange(len(all_.numbers)))
    return Block(first, len(all_.numbers), rows, refusals, arrivals=arrivals)


def _numbered(deliveries: Sequence[Delivery], clock_offset_nanos: int) -> _Numbered:
    counts = np.array([max(1, len(one.messages)) for one in deliveries], np.int64)
    starts = np.repeat([one.sequence for one in deliveries], counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    empty = np.repeat([not one.messages for one in deliveries], counts)
    micros = np.repeat([(one.nanos + clock_offset_nanos) // _NANOS_PER_MICRO for one in deliveries], counts)
    return _Numbered(
        [one.session for one in deliveries for _ in range(max(1, len(one.messages)))],
        starts + within,
        micros,
        np.where(empty, -1, np.cumsum(~empty) - 1),
        [message for one in deliveries for message in one.messages],
    )


def _identity(origin: Origin, all_: _Numbered, place: int) -> VenueIdentity:
    return VenueIdentity(
        stream=origin.stream, symbol=None, session=all_.sessions[place], channel=origin.channel,
        sequence=int(all_.numbers[place]),
    )  # fmt: skip


def _arrivals(origin: Origin, all_: _Numbered, decoded: Decoded, at: Int64s) -> pa.RecordBatch:
    """Everything that the channel carried, in control's wire form; what tells no time has the receiver's."""
    size = len(all_.numbers)
    micros, from_venue = all_.micros.copy(), np.zeros(size, np.bool_)
    streams = np.full(size, origin.stream, dtype=object)
    for places, batch in decoded.rows.values():
        where = at[places]
        micros[where] = batch.column("exchange_timestamp").cast(pa.int64()).to_numpy()
        from_venue[where] = True
        streams[where] = batch.column("stream").to_numpy(zero_copy_only=False)
    is_message = all_.message >= 0
    sources = pa.array(np.full(size, RECEIVER_CLOCK), pa.string(), mask=from_venue)
    return unchecked_batch(
        CONTROL_DATASET,
        size,
        {
            "exchange": origin.exchange,
            "stream": pa.array(streams, pa.string()),
            "symbol": NO_SYMBOL,
            "session": all_.sessions,
            "channel": origin.channel,
            "sequence": pa.array(all_.numbers, mask=~is_message),
            "previous_sequence": pa.array(all_.numbers - 1, mask=is_message),
            "exchange_timestamp": timestamps(micros),
            "receive_timestamp": timestamps(all_.micros),
            TIME_SOURCE_FIELD: sources,
        },
    )
