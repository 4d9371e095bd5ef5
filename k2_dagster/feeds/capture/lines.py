"""Captures that are one JSON message per line: collect a block's messages by stream, then build each by the column.

Parsing is one C call per line; everything after it is columnar.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.block import Block, Refusal, in_file_order, keep_good, levels, times, wire_batch
from k2_dagster.feeds.capture.exact import scaled
from k2_dagster.feeds.capture.source import Source
from k2_dagster.schemas.arrow import TIMESTAMP
from k2_dagster.schemas.common import NAME_PATTERN
from k2_dagster.schemas.control import NO_SYMBOL


class Event(NamedTuple):
    """One message of one stream, as parsed. A line may hold several."""

    line: int
    raw: bytes
    receive_nanos: int
    data: Any


Build = Callable[[Sequence[Event]], Mapping[str, Any]]


@dataclass(frozen=True)
class Stream:
    """A stream of a venue: its dataset, how its columns are built (beside exchange, stream and receive time), and
    where a message names its symbol (None when it has none to tell)."""

    name: str
    dataset: str
    build: Build
    symbol_of: Callable[[Any], Any] = lambda data: data["symbol"]


class Collector:
    """Takes a block's messages; `block()` builds them."""

    def __init__(self, exchange: str) -> None:
        self._exchange = exchange
        self._events: dict[Stream, list[Event]] = {}
        self._refusals: list[Refusal] = []
        self._skipped: Counter[str] = Counter()

    def add(self, stream: Stream, event: Event) -> None:
        """A message that should become a row."""
        self._events.setdefault(stream, []).append(event)

    def skip(self, what: str) -> None:
        """A line that carries no market event, by what it is."""
        self._skipped[what] += 1

    def refuse(self, place: int, raw: bytes, reason: str) -> None:
        """A line that is not even a message of a known form."""
        self._refusals.append(Refusal(place, raw, reason))

    def block(self, inputs: int) -> Block:
        """Everything collected, as rows in file order; bad messages become refusals."""
        parts: dict[str, list[tuple[NDArray[np.int64], pa.RecordBatch]]] = {}
        for stream, events in self._events.items():
            parts.setdefault(stream.dataset, []).extend(self._build(stream, events))
        batches = {dataset: in_file_order(found) for dataset, found in parts.items() if found}
        return Block(inputs, batches, sorted(self._refusals, key=lambda one: one.place), dict(self._skipped))

    def _build(self, stream: Stream, events: list[Event]) -> Iterator[tuple[NDArray[np.int64], pa.RecordBatch]]:
        def build(start: int, stop: int) -> pa.RecordBatch:
            chosen = events[start:stop]
            receive = np.fromiter((event.receive_nanos for event in chosen), np.int64, len(chosen))
            columns = {**times("receive", receive), **stream.build(chosen)}
            return wire_batch(
                stream.dataset, len(chosen), {"exchange": self._exchange, "stream": stream.name, **columns}
            )

        parts, bad = keep_good(len(events), build)
        for index, reason in bad:
            event = events[index]
            symbol = _symbol(stream, event.data)
            self._refusals.append(Refusal(event.line, event.raw, f"{stream.name}: {reason}", stream.dataset, symbol))
        for start, stop, batch in parts:
            yield np.fromiter((event.line for event in events[start:stop]), np.int64, stop - start), batch


def read_lines(source: Source, exchange: str, take: Callable[[Collector, int, bytes], None]) -> Iterator[Block]:
    """Blocks of a capture; `take` hands each line (number, bytes) to the collector."""
    for first, lines in source.lines():
        collector = Collector(exchange)
        for number, line in enumerate(lines, first):
            take(collector, number, line)
        yield collector.block(len(lines))


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


def receiver_time(events: Sequence[Event]) -> dict[str, pa.Array]:
    """Exchange time of a message in which the venue tells none: the recorder's, so that the row has a place in time.

    It is exactly the row's receive time, remainder included, which is how such rows are told from others.
    """
    return times("exchange", np.fromiter((event.receive_nanos for event in events), np.int64, len(events)))


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


def _symbol(stream: Stream, data: Any) -> str:
    try:
        symbol = stream.symbol_of(data)
    except (LookupError, TypeError):
        return NO_SYMBOL
    return symbol if isinstance(symbol, str) and re.fullmatch(NAME_PATTERN, symbol) else NO_SYMBOL
