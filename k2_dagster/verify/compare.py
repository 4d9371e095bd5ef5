"""Sets of offsets against each other: what is missing, extra, or there twice. Pure."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from k2_dagster.verify.report import MAX_EXAMPLES, Fault, Finding

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Difference:
    """Offsets in rising order. `twice` names an offset once for each row too many in one table."""

    missing: Int64s
    extra: Int64s
    twice: Int64s
    in_both: Int64s


def difference(messages: Int64s, data: Int64s, quarantine: Int64s, retained_from: int) -> Difference:
    """Compare rising offsets of one range: messages of Kafka (each once) with rows of the two tables.

    Below `retained_from` Kafka has nothing to compare with: only what is there twice is found.
    """
    known = union(data, quarantine)
    known = known[np.searchsorted(known, retained_from) :]
    held = union(quarantine)
    return Difference(
        missing=messages[~_among(messages, known)],
        extra=known[~_among(known, messages)],
        twice=np.concatenate([surplus(data), surplus(quarantine)]),
        in_both=held[_among(held, data)],
    )


def union(*rising: Int64s) -> Int64s:
    """The values of all, each once, in rising order. What is sorted already makes that cheaper than hashing."""
    values = np.sort(np.concatenate(rising), kind="stable")
    distinct: Int64s = values[np.diff(values, prepend=values[:1] - 1) != 0]
    return distinct


def _among(rising: Int64s, others: Int64s) -> npt.NDArray[np.bool_]:
    """Which of the values are among the others, both in rising order."""
    if not len(others):
        return np.zeros(len(rising), dtype=bool)
    at = np.minimum(np.searchsorted(others, rising), len(others) - 1)
    found: npt.NDArray[np.bool_] = others[at] == rising
    return found


def surplus(rising: Int64s) -> Int64s:
    """Each value once for every time that it comes again."""
    again: Int64s = rising[1:][rising[1:] == rising[:-1]]
    return again


class Sums:
    """Counts and digests of rows over ranges [start, end) of offsets, fed by pieces. Ranges may overlap."""

    def __init__(self, starts: Int64s, ends: Int64s) -> None:
        self._starts, self._ends = starts, ends
        self.counts = np.zeros(len(starts), dtype=np.int64)
        self.digests = np.zeros(len(starts), dtype=np.uint64)

    def add(self, rising: Int64s, digests: UInt64s | None = None) -> None:
        """Add rows: their offsets in rising order, with their digests."""
        low, high = np.searchsorted(rising, self._starts), np.searchsorted(rising, self._ends)
        self.counts += high - low
        if digests is not None:
            # Sums modulo 2^64: unsigned arithmetic wraps, so a difference of running sums is exact
            running = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(digests, dtype=np.uint64)])
            self.digests += running[high] - running[low]


class Tally:
    """Gathers faults of many pieces into one finding per (fault, detail)."""

    def __init__(self) -> None:
        self._found: dict[tuple[Fault, str], tuple[int, tuple[Any, ...]]] = {}

    def add(self, fault: Fault, detail: str, examples: Any, count: int | None = None) -> None:
        """`examples` is a sequence of all the faults, or of some when `count` says how many there are."""
        more = len(examples) if count is None else count
        if not more:
            return
        before, kept = self._found.get((fault, detail), (0, ()))
        room = MAX_EXAMPLES - len(kept)
        taken = [one.item() if isinstance(one, np.generic) else one for one in examples[:room]]
        self._found[fault, detail] = (before + more, (*kept, *taken))

    def findings(self) -> list[Finding]:
        """In the order of first occurrence."""
        return [Finding(fault, count, detail, kept) for (fault, detail), (count, kept) in self._found.items()]
