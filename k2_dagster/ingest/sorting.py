"""The order of rows in a file: (symbol, exchange_timestamp, sequence), found faster than a general sort does."""

import numba
import numpy as np
import numpy.typing as npt

from k2_dagster.ingest.columns import Codes
from k2_dagster.ingest.fixed import fixed

Int64s = npt.NDArray[np.int64]

# Feeds are nearly in order, so insertion is linear. Past this many moves per row the general sort takes over.
MAX_MOVES_PER_ROW = 32


def file_order(symbol: Codes, time: Int64s, sequence: Int64s) -> Int64s:
    """Row order by symbol, time and sequence; equal rows keep theirs."""
    # as a list: an array of texts is as wide as its longest, and a refused message may have a very long one
    names = ["" if one is None else one for one in symbol.values]
    rank = np.empty(len(names), dtype=np.int32)
    rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names), dtype=np.int32)
    ranks = rank[symbol.indices]
    order, done = _order(fixed(ranks), len(names), fixed(time), fixed(sequence), MAX_MOVES_PER_ROW * max(len(time), 1))
    if done:
        out: Int64s = order
        return out
    return np.lexsort((sequence, time, ranks)).astype(np.int64)


@numba.njit(cache=True)
def _order(ranks, count, time, sequence, moves_left):  # type: ignore[no-untyped-def]
    starts = np.zeros(count + 1, dtype=np.int64)
    for at in range(len(ranks)):
        starts[ranks[at] + 1] += 1
    for at in range(count):
        starts[at + 1] += starts[at]
    filled = starts.copy()
    order = np.empty(len(ranks), dtype=np.int64)
    for row in range(len(ranks)):
        rank = ranks[row]
        at = filled[rank]
        filled[rank] = at + 1
        while at > starts[rank]:
            other = order[at - 1]
            if time[other] < time[row] or (time[other] == time[row] and sequence[other] <= sequence[row]):
                break
            order[at] = other
            at -= 1
            moves_left -= 1
        order[at] = row
        if moves_left < 0:
            return order, False
    return order, True
