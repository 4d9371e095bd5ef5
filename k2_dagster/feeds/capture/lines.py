"""Captures that are one JSON message per line: collect a block's messages by stream, then build each by the column.

Parsing is one C call per line; everything after it is columnar.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.block import (
    DAMAGE,
    Block,
    Refusal,
    Rows,
    Skip,
    in_file_order,
    keep_good,
    levels,
    times,
    wire_batch,
)
from k2_dagster.feeds.capture.exact import scaled
from k2_dagster.feeds.capture.listings.changes import Known
from k2_dagster.feeds.capture.listings.listing import ListingSource
from k2_dagster.feeds.capture.listings.recorded import Recorded, with_instruments
from k2_dagster.feeds.capture.source import Source
from k2_dagster.schemas.arrow import TIMESTAMP
from k2_dagster.schemas.common import RECEIVER_CLOCK, TIME_SOURCE_FIELD
from k2_dagster.schemas.refused import VenueIdentity, valid_name, valid_number


class Event(NamedTuple):
    """One message of one stream, as parsed. A line may hold several. `finer`: the recorder tells more than the
    microsecond."""

    line: int
    raw: bytes
    receive_nanos: int
    data: Any
    finer: bool = True


Build = Callable[[Sequence[Event]], Mapping[str, Any]]
# `sequence` and `previous_sequence` of a message, as far as it has them.
Numbers = Callable[[Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Stream:
    """A stream of a venue: its dataset, the kind of its messages, and how its columns are built (beside exchange,
    stream, kind and receive time). `symbol_of` and `numbers_of` say whose a message is that cannot be built."""

    name: str
    dataset: str
    kind: str
    build: Build
    symbol_of: Callable[[Any], Any] = lambda data: data["symbol"]
    numbers_of: Numbers = lambda _: (None, None)


class Collector:
    """Takes a block's messages; `block()` builds them."""

    def __init__(self, exchange: str) -> None:
        self._exchange = exchange
        self._events: dict[Stream, list[Event]] = {}
        self._refusals: list[Refusal] = []
        self._skips: list[Skip] = []
        self.lists: list[Recorded] = []

    def add(self, stream: Stream, event: Event) -> None:
        """A message that should become a row."""
        self._events.setdefault(stream, []).append(event)

    def skip(self, line: int, what: str) -> None:
        """A line that carries no market event, by what it is."""
        self._skips.append(Skip(line, what))

    def list_instruments(self, line: int, nanos: int, body: bytes) -> None:
        """A line with the venue's list of instruments, which came at `nanos` (Unix nanoseconds). `read_lines` reads it:
        what is news of it depends on the lists before."""
        self.lists.append(Recorded(line, nanos, body))

    def refuse(self, line: int, raw: bytes, reason: str) -> None:
        """A line that is not even a message of a known form."""
        self._refusals.append(Refusal(line, line, raw, reason))

    def messages(self, dataset: str) -> list[tuple[Stream, Event]]:
        """The messages of a dataset so far, in the order of their lines, whether they can be built or not."""
        found = [
            (stream, one) for stream, events in self._events.items() if stream.dataset == dataset for one in events
        ]
        return sorted(found, key=lambda item: item[1].line)

    def block(self, first: int, inputs: int) -> Block:
        """Everything collected, as rows in file order; bad messages become refusals."""
        parts: dict[str, list[Rows]] = {}
        for stream, events in self._events.items():
            parts.setdefault(stream.dataset, []).extend(self._build(stream, events))
        rows = {dataset: in_file_order(found) for dataset, found in parts.items() if found}
        return Block(first, inputs, rows, sorted(self._refusals, key=lambda one: one.order), self._skips)

    def _build(self, stream: Stream, events: list[Event]) -> Iterator[Rows]:
        def build(start: int, stop: int) -> pa.RecordBatch:
            chosen = events[start:stop]
            fixed = {"exchange": self._exchange, "stream": stream.name, "kind": stream.kind}
            columns = {**fixed, **_received("receive", chosen), **stream.build(chosen)}
            return wire_batch(stream.dataset, len(chosen), columns)

        parts, bad = keep_good(len(events), build)
        for index, reason in bad:
            event = events[index]
            identity = _identity(stream, event.data)
            self._refusals.append(
                Refusal(event.line, event.line, event.raw, f"{stream.name}: {reason}", stream.dataset, identity)
            )
        for start, stop, batch in parts:
            yield Rows(batch, np.fromiter((event.line for event in events[start:stop]), np.int64, stop - start))


# Hands a line (number, bytes) to the collector.
Take = Callable[[Collector, int, bytes], None]


def read_lines(source: Source, exchange: str, take: Take, listing: ListingSource) -> Iterator[Block]:
    """Blocks of a capture; `take` hands each line (number, bytes) to the collector. `listing` is how the venue tells
    its list of instruments, which recordings have."""
    known = Known()
    for first, lines in source.lines():
        collector = Collector(exchange)
        for number, line in enumerate(lines, first):
            take(collector, number, line)
        block = collector.block(first, len(lines))
        if collector.lists:
            known, block = with_instruments(known, block, exchange, listing, collector.lists)
        yield block


def texts(events: Sequence[Event], key: str) -> pa.Array:
    """A text of each message. Raises one of `block.DAMAGE` when it is missing, null or not text."""
    return _given(pa.array([event.data[key] for event in events], pa.string()), key)


def integers(events: Sequence[Event], key: str) -> pa.Array:
    """An integer of each message. Raises as `texts`."""
    return _given(pa.array([event.data[key] for event in events], pa.int64()), key)


def numbers(events: Sequence[Event], key: str) -> pa.Int64Array:
    """A decimal text of each message, scaled. Raises as `texts`."""
    return _given(scaled([event.data[key] for event in events], key), key)


def milliseconds(values: Sequence[int]) -> dict[str, pa.Array]:
    """Exchange time from Unix milliseconds."""
    return {"exchange_timestamp": pa.array(values, pa.int64()).cast(pa.timestamp("ms", "UTC")).cast(TIMESTAMP)}


def receiver_time(events: Sequence[Event]) -> dict[str, Any]:
    """Exchange time of a message in which the venue tells none: the recorder's, so that the row has a place in time,
    and the mark that it is."""
    return {**_received("exchange", events), TIME_SOURCE_FIELD: RECEIVER_CLOCK}


def _received(prefix: str, events: Sequence[Event]) -> dict[str, pa.Array]:
    nanos = np.fromiter((event.receive_nanos for event in events), np.int64, len(events))
    return times(prefix, nanos, finer=np.fromiter((event.finer for event in events), np.bool_, len(events)))


def sides(events: Sequence[Event], key: str) -> pa.ListArray:
    """Book levels of each message: its `key` holds a list of [price, size] in decimal text."""
    return level_lists([event.data[key] for event in events], key)


def level_lists(sides_: Sequence[Sequence[Sequence[str | None]]], field: str) -> pa.ListArray:
    """Book levels from one list of [price, size] (in decimal text) per row."""
    flat = [level for side in sides_ for level in side]
    prices = scaled([price for price, _ in flat], f"{field} price")
    sizes = scaled([size for _, size in flat], f"{field} size")
    return levels(prices, sizes, [len(side) for side in sides_])


def _given(values: pa.Array, field: str) -> pa.Array:
    if values.null_count:
        raise CaptureInvalid(f"{field} is null", advice="the venue must give it", field=field)
    return values


def _identity(stream: Stream, data: Any) -> VenueIdentity:
    """What a message that cannot be built still tells of itself."""
    sequence, previous = _told(stream.numbers_of, data) or (None, None)
    return VenueIdentity(
        stream=stream.name,
        kind=stream.kind,
        symbol=valid_name(_told(stream.symbol_of, data)),
        sequence=valid_number(sequence),
        previous_sequence=valid_number(previous, lowest=-1),
    )


def _told(question: Callable[[Any], Any], data: Any) -> Any:
    try:
        return question(data)
    except DAMAGE:
        return None
