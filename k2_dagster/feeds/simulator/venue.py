"""One stream of a simulated venue: gives rows their venue numbers in the stream's domain, and their wire form."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from k2_dagster.feeds.numbering import totals_within
from k2_dagster.feeds.simulator.market import BUY, SNAPSHOT, Chunk
from k2_dagster.schemas.arrow import TIMESTAMP, wire_schema
from k2_dagster.schemas.datasets import dataset_named
from k2_dagster.schemas.profiles import Domain

Int64s = NDArray[np.int64]

# Channels of a stream in the channel domain; symbols are dealt to them in turn.
CHANNELS = 2
# A linked stream's numbers step by this much per changed level: only its back pointer tells whether one is missing.
LINKED_STEP = 3

_KINDS = {"ticks": "trade", "quotes": "quote", "book": "book"}
_LEVEL = pa.struct([("price", pa.int64()), ("size", pa.int64()), ("orders", pa.int32())])


class StreamNumbers:
    """The venue's numbers of one stream. Any split of the rows into batches gives the same numbers."""

    def __init__(self, domain: Domain, symbols: int) -> None:
        self._domain = domain
        self._last = np.zeros(CHANNELS if domain is Domain.CHANNEL else symbols, np.int64)
        self._before_first: int | None = None

    def reset(self) -> None:
        """A new session: every number starts again."""
        self._last[:] = 0
        self._before_first = None

    def number(self, symbol: Int64s, widths: Int64s, messages: Int64s) -> tuple[Int64s | None, Int64s | None]:
        """`sequence` and `previous_sequence` of rows, None where the domain has none.

        `widths`: changes that a row carries (a range covers as many numbers); `messages`: the exchange-wide count.
        """
        match self._domain:
            case Domain.NONE:
                return None, None
            case Domain.MONOTONE:
                if self._before_first is None and len(messages):
                    self._before_first = int(messages[0]) - 1
                return messages - (self._before_first or 0), None
            case Domain.DENSE:
                return self._count(symbol, np.ones_like(symbol)), None
            case Domain.CHANNEL:
                return self._count(symbol % CHANNELS, np.ones_like(symbol)), None
            case Domain.RANGE | Domain.LINKED:
                steps = widths * (LINKED_STEP if self._domain is Domain.LINKED else 1)
                sequence = self._count(symbol, steps)
                return sequence, sequence - steps

    def _count(self, codes: Int64s, steps: Int64s) -> Int64s:
        running, totals = totals_within(codes, steps, len(self._last))
        running += self._last[codes]
        self._last += totals
        return running


def payload(dataset: str, chunk: Chunk) -> tuple[Int64s, Int64s, Int64s, Mapping[str, pa.Array]]:
    """Event, message number and width of each row of a chunk, and the columns that only this dataset has."""
    if dataset == "ticks":
        trades = chunk.trades
        sides = pa.array(["buy", "sell"]).take(pa.array((trades.side != BUY).astype(np.int8)))
        columns = {"price": pa.array(trades.price), "size": pa.array(trades.size), "side": sides}
        return trades.event, trades.number, np.ones_like(trades.event), columns
    if dataset == "quotes":
        quotes = chunk.quotes
        names = ("bid_price", "bid_size", "ask_price", "ask_size")
        columns = {name: pa.array(getattr(quotes, name)) for name in names}
        return quotes.event, quotes.number, np.ones_like(quotes.event), columns
    updates = chunk.updates
    actions = pa.array(["delta", "snapshot"]).take(pa.array((updates.action == SNAPSHOT).astype(np.int8)))
    columns = {
        "action": actions,
        "bids": levels(updates.bids, updates.bid_price, updates.bid_size),
        "asks": levels(updates.asks, updates.ask_price, updates.ask_size),
    }
    widths = np.where(updates.action == SNAPSHOT, 1, updates.bids + updates.asks)
    return updates.event, updates.number, widths, columns


def levels(counts: Int64s, prices: Int64s, sizes: Int64s) -> pa.Array:
    """Levels of a side of books, `counts` of them in each: flat prices and sizes as wire longs."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    orders = pa.nulls(len(prices), pa.int32())
    level = pa.StructArray.from_arrays([pa.array(prices), pa.array(sizes), orders], fields=list(_LEVEL))
    return pa.ListArray.from_arrays(pa.array(offsets), level)


class VenueStream:
    """One stream: numbers and sessions of its rows, and their wire form."""

    def __init__(self, exchange: str, dataset: str, stream: str, domain: Domain, names: list[str], run: str) -> None:
        self.dataset = dataset
        self.domain = domain
        self.stream = stream
        self._exchange = exchange
        self._names = pa.array(names, pa.string())
        self._channels = pa.array([channel_name(stream, place) for place in range(CHANNELS)])
        self._run = run
        self._session = 1
        self._numbers = StreamNumbers(domain, len(names))

    @property
    def session(self) -> str:
        """Name of the session that the next row belongs to."""
        return f"{self._run}.{self._session}"

    def reset_session(self) -> str:
        """Start the next session; returns its name."""
        self._session += 1
        self._numbers.reset()
        return self.session

    def units(self, symbol: Int64s) -> Int64s:
        """What the numbers of a row count within: its channel or its symbol, as a code."""
        return symbol % CHANNELS if self.domain is Domain.CHANNEL else symbol

    def rows(
        self,
        symbol: Int64s,
        messages: Int64s,
        widths: Int64s,
        columns: Mapping[str, pa.Array],
        exchange_micros: Int64s,
        receive_micros: Int64s,
    ) -> pa.RecordBatch:
        """Rows in wire form, in order; publisher columns are null."""
        size = len(symbol)
        sequence, previous = self._numbers.number(symbol, widths, messages)
        known: dict[str, pa.Array] = {
            **columns,
            "exchange": pa.repeat(self._exchange, size),
            "stream": pa.repeat(self.stream, size),
            "kind": pa.repeat(_KINDS[self.dataset], size),
            "symbol": self._names.take(pa.array(symbol)),
            "session": pa.repeat(self.session, size),
            "exchange_timestamp": pa.array(exchange_micros).view(TIMESTAMP),
            "receive_timestamp": pa.array(receive_micros).view(TIMESTAMP),
        }
        if self.domain is Domain.CHANNEL:
            known["channel"] = self._channels.take(pa.array(symbol % CHANNELS))
        if sequence is not None:
            known["sequence"] = pa.array(sequence)
        if previous is not None:
            known["previous_sequence"] = pa.array(previous)
        schema = wire_schema(dataset_named(self.dataset))
        arrays = [known[one.name] if one.name in known else pa.nulls(size, one.type) for one in schema]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


def channel_name(stream: str, place: int) -> str:
    """Channels are numbered from 1: `quote-1`."""
    return f"{stream}-{place + 1}"
