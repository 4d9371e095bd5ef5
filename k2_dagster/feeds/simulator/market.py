"""A limit order book per symbol, and the stream of trades, quotes and book updates that it gives off.

A trade prints at the best opposite price and takes from it; every change of the best prices or sizes is a quote; every
change of a level is a book update, now and then sent as a full snapshot instead. So the three data sets agree by
construction. One compiled pass makes a chunk of them; the randomness comes in as arrays from a seeded generator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from k2_dagster.feeds.simulator.symbols import Instruments

Int64s = NDArray[np.int64]

# Price levels kept per side.
DEPTH = 10
# Events per compiled pass: a few milliseconds of work, and small enough for the processor's cache.
CHUNK_EVENTS = 4_096
# Of all events, this share are trades. With quotes and book updates it gives about 1 : 2 : 3.5 messages.
TRADE_SHARE = 0.3
# With a spread above one tick, this share of the other events are orders inside it: prices keep moving, spreads close.
IMPROVE_SHARE = 0.5
# A symbol's book is sent whole after this many updates (and at first).
SNAPSHOT_EVERY = 500
LARGEST_SIZE_LOTS = 1_000
# Below this price (in ticks) nobody sells: a book must not reach zero.
FLOOR_TICKS = 1_000
_RANDOMS = 5
_LEVELS_AT_MOST = 2 * DEPTH

BUY, SELL = 0, 1
DELTA, SNAPSHOT = 0, 1


@dataclass(frozen=True)
class Trades:
    """Rows of one chunk: the event's place in the chunk, the message number, and prices and sizes as wire longs."""

    event: Int64s
    number: Int64s
    price: Int64s
    size: Int64s
    side: Int64s


@dataclass(frozen=True)
class Quotes:
    """Best prices and sizes after the event."""

    event: Int64s
    number: Int64s
    bid_price: Int64s
    bid_size: Int64s
    ask_price: Int64s
    ask_size: Int64s


@dataclass(frozen=True)
class Updates:
    """Book updates: `bids` and `asks` levels of each, in row order in the flat level arrays."""

    event: Int64s
    number: Int64s
    action: Int64s
    bids: Int64s
    asks: Int64s
    bid_price: Int64s
    bid_size: Int64s
    ask_price: Int64s
    ask_size: Int64s


@dataclass(frozen=True)
class Chunk:
    """What happened in one pass: the symbol and first message number of each event, and the rows.

    `books`, where they were asked for: prices in ticks and sizes in lots before the first event, [symbol, side, level].
    """

    symbol: Int64s
    first_number: Int64s
    trades: Trades
    quotes: Quotes
    updates: Updates
    messages: int
    books: tuple[Int64s, Int64s] | None = None


class Market:
    """The books of all instruments. The same instruments, generator and `datasets` give the same chunks."""

    def __init__(self, instruments: Instruments, rng: np.random.Generator, datasets: frozenset[str]) -> None:
        count = len(instruments.names)
        self._instruments = instruments
        self._rng = rng
        self._wanted = np.array([name in datasets for name in ("ticks", "quotes", "book")])
        self._numbers = 0
        # Prices in ticks and sizes in lots: [symbol, side, level], best level first.
        self._prices = np.empty((count, 2, DEPTH), np.int64)
        steps = np.arange(DEPTH)
        self._prices[:, 0, :] = instruments.first_ticks[:, None] - steps
        self._prices[:, 1, :] = instruments.first_ticks[:, None] + 1 + steps
        self._sizes = rng.integers(1, LARGEST_SIZE_LOTS, (count, 2, DEPTH), endpoint=True)
        self._until_snapshot = np.zeros(count, np.int64)

    def next_chunk(self, *, keep_books: bool = False) -> Chunk:
        """The next `CHUNK_EVENTS` events."""
        books = (self._prices.copy(), self._sizes.copy()) if keep_books else None
        draws = self._rng.random((_RANDOMS + 1, CHUNK_EVENTS))
        symbol = np.searchsorted(self._instruments.cumulative_share, draws[0], side="right").astype(np.int64)
        symbol = np.minimum(symbol, len(self._instruments.names) - 1)
        first_number = np.empty(CHUNK_EVENTS, np.int64)
        trades, quotes, updates = (np.empty((width, CHUNK_EVENTS), np.int64) for width in (5, 6, 5))
        levels = np.empty((2, 2, CHUNK_EVENTS * _LEVELS_AT_MOST), np.int64)
        counts = _run(
            symbol, draws[1:], self._prices, self._sizes, self._until_snapshot, self._wanted, self._numbers,
            first_number, trades, quotes, updates, levels,
        )  # fmt: skip
        made, self._numbers = int(counts[5]) - self._numbers, int(counts[5])
        return Chunk(
            symbol,
            first_number,
            self._as_trades(symbol, trades[:, : counts[0]]),
            self._as_quotes(symbol, quotes[:, : counts[1]]),
            self._as_updates(symbol, updates[:, : counts[2]], levels, counts[3:5]),
            made,
            books,
        )

    def snapshot_next(self, symbols: Int64s) -> None:
        """Send the books of these symbols whole with their next update."""
        self._until_snapshot[symbols] = 0

    def _as_trades(self, symbol: Int64s, rows: Int64s) -> Trades:
        tick, lot = self._units(symbol[rows[0]])
        return Trades(rows[0], rows[1], rows[2] * tick, rows[3] * lot, rows[4])

    def _as_quotes(self, symbol: Int64s, rows: Int64s) -> Quotes:
        tick, lot = self._units(symbol[rows[0]])
        return Quotes(rows[0], rows[1], rows[2] * tick, rows[3] * lot, rows[4] * tick, rows[5] * lot)

    def _as_updates(self, symbol: Int64s, rows: Int64s, levels: Int64s, counts: Int64s) -> Updates:
        tick, lot = self._units(symbol[rows[0]])
        flat = []
        for side in (0, 1):
            per_row = rows[3 + side]
            flat.append(levels[side, 0, : counts[side]] * np.repeat(tick, per_row))
            flat.append(levels[side, 1, : counts[side]] * np.repeat(lot, per_row))
        return Updates(rows[0], rows[1], rows[2], rows[3], rows[4], *flat)

    def _units(self, symbol: Int64s) -> tuple[Int64s, Int64s]:
        return self._instruments.tick[symbol], self._instruments.lot[symbol]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True)(function)
    return compiled


@_compiled
def _take(prices, sizes, side, lots, levels, used, refill_lots):  # type: ignore[no-untyped-def]
    """Take lots from the best level of a side; writes the changed levels, returns how many are used."""
    sizes[side, 0] -= lots
    levels[side, 0, used], levels[side, 1, used] = prices[side, 0], sizes[side, 0]
    used += 1
    if sizes[side, 0] == 0:
        for level in range(DEPTH - 1):
            prices[side, level], sizes[side, level] = prices[side, level + 1], sizes[side, level + 1]
        prices[side, DEPTH - 1] += -1 if side == 0 else 1
        sizes[side, DEPTH - 1] = refill_lots
        levels[side, 0, used], levels[side, 1, used] = prices[side, DEPTH - 1], refill_lots
        used += 1
    return used


@_compiled
def _improve(prices, sizes, side, lots, levels, used):  # type: ignore[no-untyped-def]
    """A new best level one tick inside the spread; the farthest level leaves the book."""
    levels[side, 0, used], levels[side, 1, used] = prices[side, DEPTH - 1], 0
    for level in range(DEPTH - 1, 0, -1):
        prices[side, level], sizes[side, level] = prices[side, level - 1], sizes[side, level - 1]
    prices[side, 0] += 1 if side == 0 else -1
    sizes[side, 0] = lots
    levels[side, 0, used + 1], levels[side, 1, used + 1] = prices[side, 0], lots
    return used + 2


@_compiled
def _snapshot(prices, sizes, levels, used):  # type: ignore[no-untyped-def]
    """Write the whole book; `used` holds the levels used per side."""
    for side in range(2):
        for level in range(DEPTH):
            levels[side, 0, used[side] + level] = prices[side, level]
            levels[side, 1, used[side] + level] = sizes[side, level]
        used[side] += DEPTH


@_compiled
def _run(  # type: ignore[no-untyped-def]
    symbol, draws, prices, sizes, until_snapshot, wanted, number,
    first_number, trades, quotes, updates, levels,
):  # fmt: skip
    """One pass over the events. Returns counts: trades, quotes, updates, bid levels, ask levels, next number."""
    made = np.zeros(6, np.int64)
    used = np.zeros(2, np.int64)
    for event in range(len(symbol)):
        book, lots_there = prices[symbol[event]], sizes[symbol[event]]
        side = 0 if draws[1, event] < 0.5 else 1
        lots = 1 + int(draws[2, event] * draws[2, event] * LARGEST_SIZE_LOTS)
        top = (book[0, 0], lots_there[0, 0], book[1, 0], lots_there[1, 0])
        first_number[event] = number
        before = used.copy()
        if draws[0, event] < TRADE_SHARE:
            if book[0, DEPTH - 1] < FLOOR_TICKS:
                side = 1
            lots = min(lots, lots_there[side, 0])
            if wanted[0]:
                trades[0, made[0]], trades[1, made[0]] = event, number
                trades[2, made[0]], trades[3, made[0]] = book[side, 0], lots
                # Who takes from the asks is a buyer.
                trades[4, made[0]] = BUY if side == 1 else SELL
                made[0] += 1
                number += 1
            refill = 1 + int(draws[3, event] * LARGEST_SIZE_LOTS)
            used[side] = _take(book, lots_there, side, lots, levels, used[side], refill)
        elif book[1, 0] - book[0, 0] > 1 and draws[3, event] < IMPROVE_SHARE:
            used[side] = _improve(book, lots_there, side, lots, levels, used[side])
        else:
            level = int(draws[4, event] * draws[4, event] * DEPTH)
            lots_there[side, level] = lots + 1 if lots == lots_there[side, level] else lots
            levels[side, 0, used[side]] = book[side, level]
            levels[side, 1, used[side]] = lots_there[side, level]
            used[side] += 1
        first_seen = until_snapshot[symbol[event]] == 0
        if wanted[2]:
            updates[2, made[2]] = DELTA
            if first_seen:
                used[:] = before
                _snapshot(book, lots_there, levels, used)
                updates[2, made[2]] = SNAPSHOT
            updates[0, made[2]], updates[1, made[2]] = event, number
            updates[3, made[2]], updates[4, made[2]] = used[0] - before[0], used[1] - before[1]
            made[2] += 1
            number += 1
        else:
            used[:] = before
        until_snapshot[symbol[event]] = SNAPSHOT_EVERY if first_seen else until_snapshot[symbol[event]] - 1
        now = (book[0, 0], lots_there[0, 0], book[1, 0], lots_there[1, 0])
        if wanted[1] and (first_seen or now != top):
            quotes[0, made[1]], quotes[1, made[1]] = event, number
            quotes[2, made[1]], quotes[3, made[1]], quotes[4, made[1]], quotes[5, made[1]] = now
            made[1] += 1
            number += 1
    made[3], made[4], made[5] = used[0], used[1], number
    return made
