"""Arithmetic of spans of time: half-open [start, end), UTC microseconds."""

from collections.abc import Iterable, Sequence

Span = tuple[int, int]


def without(whole: Span, parts: Iterable[Span]) -> list[Span]:
    """What is left of a span, oldest first."""
    out: list[Span] = []
    at, end = whole
    for start, stop in sorted(parts):
        if start >= end:
            break
        if start > at:
            out.append((at, start))
        at = max(at, stop)
    if at < end:
        out.append((at, end))
    return out


def overlaps(one: Span, other: Span) -> bool:
    """Whether they share a microsecond."""
    return max(one[0], other[0]) < min(one[1], other[1])


def within(whole: Span, parts: Sequence[Span]) -> list[Span]:
    """The parts as far as they lie in the span."""
    cut = [(max(whole[0], start), min(whole[1], end)) for start, end in parts]
    return [one for one in cut if one[0] < one[1]]
