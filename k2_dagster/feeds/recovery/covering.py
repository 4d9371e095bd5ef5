"""Which of the numbers that were asked for rows have. Pure."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from k2_dagster.schemas.profiles import Domain

Int64s = NDArray[np.int64]
Range = tuple[int, int]


def within(rows: pa.RecordBatch, first: int, last: int) -> pa.RecordBatch:
    """The rows whose number lies in `first`..`last`, in the order of their numbers, each number once."""
    numbers = rows.column("sequence")
    inside = pc.and_(pc.greater_equal(numbers, first), pc.less_equal(numbers, last)).fill_null(False)
    chosen = rows.filter(inside)
    _, places = np.unique(chosen.column("sequence").to_numpy(), return_index=True)
    return chosen.take(pa.array(places))


def left(first: int, last: int, batches: Sequence[pa.RecordBatch], domain: Domain) -> list[Range]:
    """The numbers of `first`..`last` that no row has, as ranges in rising order. A row of a `range` or `linked` stream
    has all from behind its `previous_sequence` on."""
    lows, highs = [], []
    for rows in batches:
        numbers = rows.column("sequence").to_numpy(zero_copy_only=False).astype(np.int64)
        before = rows.column("previous_sequence")
        own = pa.array(numbers - 1)
        spans = domain in (Domain.RANGE, Domain.LINKED)
        lows.append((pc.coalesce(before, own) if spans else own).to_numpy(zero_copy_only=False).astype(np.int64) + 1)
        highs.append(numbers)
    if not lows:
        return [(first, last)]
    low, high = np.concatenate(lows), np.concatenate(highs)
    order = np.argsort(low, kind="stable")
    out: list[Range] = []
    expected = first
    for begin, end in zip(low[order].tolist(), high[order].tolist(), strict=True):
        if begin > expected:
            out.append((expected, min(begin - 1, last)))
        expected = max(expected, end + 1)
        if expected > last:
            break
    if expected <= last:
        out.append((expected, last))
    return [one for one in out if one[0] <= one[1]]


def other(first: int, last: int, ranges: Sequence[Range]) -> list[Range]:
    """The numbers of `first`..`last` that are in none of these ranges, which rise and do not touch."""
    edges = [first - 1, *(edge for one in ranges for edge in one), last + 1]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [(low + 1, high - 1) for low, high in pairs if low + 1 <= high - 1]


def count(ranges: Sequence[Range]) -> int:
    """Numbers in these ranges."""
    return sum(last - first + 1 for first, last in ranges)
