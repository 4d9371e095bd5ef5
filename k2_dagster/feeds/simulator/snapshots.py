"""Book snapshots on demand: after a session reset each book begins whole, as on every venue."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from k2_dagster.feeds.simulator.market import DEPTH, SNAPSHOT, Chunk, Updates
from k2_dagster.feeds.simulator.symbols import Instruments

Int64s = NDArray[np.int64]
# Price -> size of each side, bids first, as wire longs.
Book = tuple[dict[int, int], dict[int, int]]


@dataclass(frozen=True)
class Books:
    """Every symbol's book: prices and sizes as wire longs, [symbol, side, level], bids first, best level first."""

    names: list[str]
    prices: Int64s
    sizes: Int64s


def books_before(chunk: Chunk, instruments: Instruments) -> Books:
    """The books as they were before the chunk, which must have them."""
    if chunk.books is None:
        raise ValueError("the chunk was made without its books")
    prices, sizes = chunk.books
    return Books(instruments.names, prices * instruments.tick[:, None, None], sizes * instruments.lot[:, None, None])


def begun_with_snapshots(chunk: Chunk, instruments: Instruments, first_row: int) -> tuple[Chunk, Int64s]:
    """The chunk with each symbol's first book update from `first_row` on as a snapshot of what its book was then, and
    the symbols that have none there. Resets are rare, so loops are fine. The chunk must have its `books`."""
    updates = chunk.updates
    symbols = chunk.symbol[updates.event]
    replaced: dict[int, Book] = {}
    for symbol in np.unique(symbols[first_row:]).tolist():
        row = first_row + int(np.flatnonzero(symbols[first_row:] == symbol)[0])
        mine = np.flatnonzero(symbols[: row + 1] == symbol)
        replaced[row] = _replayed(_book_before(chunk, instruments, symbol), updates, mine.tolist())
    missing = np.setdiff1d(np.arange(len(instruments.names)), symbols[first_row:])
    return replace(chunk, updates=_with_snapshots(updates, replaced)), missing


def _book_before(chunk: Chunk, instruments: Instruments, symbol: int) -> Book:
    if chunk.books is None:
        raise ValueError("the chunk was made without its books")
    prices, sizes = chunk.books
    tick, lot = int(instruments.tick[symbol]), int(instruments.lot[symbol])
    bids, asks = (
        dict(zip((prices[symbol, side] * tick).tolist(), (sizes[symbol, side] * lot).tolist(), strict=True))
        for side in (0, 1)
    )
    return bids, asks


def _replayed(book: Book, updates: Updates, rows: list[int]) -> Book:
    sides = ((updates.bids, updates.bid_price, updates.bid_size), (updates.asks, updates.ask_price, updates.ask_size))
    for levels, (counts, prices, sizes) in zip(book, sides, strict=True):
        ends = np.cumsum(counts)
        for row in rows:
            if updates.action[row] == SNAPSHOT:
                levels.clear()
            changed = slice(int(ends[row] - counts[row]), int(ends[row]))
            levels.update(zip(prices[changed].tolist(), sizes[changed].tolist(), strict=True))
            for price in [price for price, size in levels.items() if size == 0]:
                del levels[price]
    return book


def _with_snapshots(updates: Updates, replaced: dict[int, Book]) -> Updates:
    action = updates.action.copy()
    action[list(replaced)] = SNAPSHOT
    bids = {row: sorted(book[0].items(), reverse=True)[:DEPTH] for row, book in replaced.items()}
    asks = {row: sorted(book[1].items())[:DEPTH] for row, book in replaced.items()}
    bid_counts, bid_price, bid_size = _side(updates.bids, updates.bid_price, updates.bid_size, bids)
    ask_counts, ask_price, ask_size = _side(updates.asks, updates.ask_price, updates.ask_size, asks)
    return Updates(
        updates.event, updates.number, action, bid_counts, ask_counts, bid_price, bid_size, ask_price, ask_size
    )


def _side(
    counts: Int64s, prices: Int64s, sizes: Int64s, replaced: dict[int, list[tuple[int, int]]]
) -> tuple[Int64s, Int64s, Int64s]:
    """Flat levels of one side, with those of some rows replaced."""
    ends = np.cumsum(counts)
    new_counts = counts.copy()
    price_parts, size_parts, position = [], [], 0
    for row, levels in sorted(replaced.items()):
        start = int(ends[row] - counts[row])
        new_counts[row] = len(levels)
        price_parts += [prices[position:start], np.array([price for price, _ in levels], np.int64)]
        size_parts += [sizes[position:start], np.array([size for _, size in levels], np.int64)]
        position = int(ends[row])
    return (
        new_counts,
        np.concatenate([*price_parts, prices[position:]]),
        np.concatenate([*size_parts, sizes[position:]]),
    )
