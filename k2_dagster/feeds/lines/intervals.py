"""A set of whole numbers as the runs that it has."""

from bisect import bisect_left, bisect_right


class Intervals:
    """Numbers in runs; memory is by the run. Ranges are inclusive."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __len__(self) -> int:
        """How many runs there are."""
        return len(self._firsts)

    @property
    def runs(self) -> list[tuple[int, int]]:
        """The runs in order."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def add(self, first: int, last: int) -> list[tuple[int, int]]:
        """Add first..last; returns the ranges of it that were not there, in order."""
        low = bisect_left(self._lasts, first - 1)
        high = bisect_right(self._firsts, last + 1)
        new, at = [], first
        for place in range(low, high):
            if at < self._firsts[place]:
                new.append((at, min(last, self._firsts[place] - 1)))
            at = max(at, self._lasts[place] + 1)
        if at <= last:
            new.append((at, last))
        if low < high:
            first, last = min(first, self._firsts[low]), max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]
        return new

    def remove(self, first: int, last: int) -> int:
        """Take first..last away; returns how many of these numbers were there."""
        low, high = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        touched = list(zip(self._firsts[low:high], self._lasts[low:high], strict=True))
        removed = sum(min(last, stop) - max(first, start) + 1 for start, stop in touched)
        left = [(start, first - 1) for start, _ in touched if start < first]
        left += [(last + 1, stop) for _, stop in touched if stop > last]
        self._firsts[low:high] = [start for start, _ in left]
        self._lasts[low:high] = [stop for _, stop in left]
        return removed

    def gaps(self, first: int, last: int) -> list[tuple[int, int]]:
        """The ranges of first..last that are not there, in order."""
        low, high = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        out, at = [], first
        for start, stop in zip(self._firsts[low:high], self._lasts[low:high], strict=True):
            if at < start:
                out.append((at, start - 1))
            at = max(at, stop + 1)
        if at <= last:
            out.append((at, last))
        return out

    def drop_oldest(self) -> int:
        """Take the first run away; returns how many numbers it had."""
        return self._lasts.pop(0) - self._firsts.pop(0) + 1

    def close_oldest_gap(self) -> int:
        """Add what is missing between the first two runs; returns how many numbers that are."""
        missing = self._firsts[1] - self._lasts[0] - 1
        del self._firsts[1], self._lasts[0]
        return missing
