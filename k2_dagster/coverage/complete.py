"""Whether a range of time is complete, by what was received and what is known to be missing. Pure.

All times are UTC microseconds of the venue's clock, as rows have them. A number that is missing lies somewhere between
the messages around it, so a gap concerns every range that touches the time between them.

1. missing   a gap that is not filled, or a hole that no gap tells of yet, touches the range: `gaps`, with the list
2. held      a partition is halted, or symbols deferred, and no row behind that has landed yet: `unknown`. Once one has,
             what was held is taken, and numbers tell of it as of anything else
3. outside   a part of the range lies before the first or after the last message of every session, and the exchange was
             not closed: `unknown`. Numbers show what is missing between two messages, never what came before or after
4. else      `complete`
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from k2_dagster.coverage.spans import Span, without

Reason = Literal["no_sequence", "halted", "deferred", "outside"]
# Whose numbers an answer rests on: the venue's of the symbol; its channel's, by the feed handler, and the publisher's
# behind it; or the publisher's alone, which show loss behind the feed handler and nothing of the venue's.
Basis = Literal["venue", "channel", "publisher"]


@dataclass(frozen=True, slots=True)
class Extent:
    """Numbers `first` to `last` of one session were received between two times, but for what is missing."""

    kafka_partition: int
    session: str
    first: int
    last: int
    from_micros: int
    to_micros: int

    @property
    def span(self) -> Span:
        """From the first message to the last, whichever the venue's clock puts first."""
        return min(self.from_micros, self.to_micros), max(self.from_micros, self.to_micros) + 1


@dataclass(frozen=True, slots=True)
class Missing:
    """Numbers `first` to `last` of a session, of which `count` messages have not come. The times are those of the
    messages around; None where one is not known. `gap_id` is None of a hole that is no gap (yet)."""

    numbering: str
    session: str
    channel: str
    first: int
    last: int
    count: int
    from_micros: int | None
    to_micros: int | None
    state: str
    cause: str
    level: str
    gap_id: int | None


@dataclass(frozen=True, slots=True)
class Held:
    """A partition of which nothing was taken from the first time to the second, that of the first row behind it (None:
    none has landed yet)."""

    kafka_partition: int
    kind: Literal["halted", "deferred"]
    from_micros: int
    to_micros: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the control database has of one symbol of one stream. `basis` is None where no numbers tell anything.
    `doubt` says that the exchange may have been closed at other times than `closed`."""

    basis: Basis | None
    extents: Sequence[Extent] = ()
    missing: Sequence[Missing] = ()
    held: Sequence[Held] = ()
    closed: Sequence[Span] = ()
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Complete:
    """Every message of the range is here, as far as the basis tells."""

    basis: Basis
    answer: Literal["complete"] = "complete"


@dataclass(frozen=True, slots=True)
class Gaps:
    """Messages are missing in the range, or may be: these, oldest first."""

    basis: Basis
    missing: tuple[Missing, ...]
    answer: Literal["gaps"] = "gaps"


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody can tell. `spans` are the parts of the range that the reason is about."""

    basis: Basis | None
    reason: Reason
    detail: str
    spans: tuple[Span, ...] = ()
    answer: Literal["unknown"] = "unknown"


Answer = Complete | Gaps | Unknown

LIMITS: Mapping[Basis | None, str] = {
    "venue": "",
    "channel": "the venue's channel is judged by the feed handler, and what is behind it by its own numbers",
    "publisher": "the venue numbers nothing here that shows loss: what the feed handler published is judged, and what "
    "the venue sent before that is not known",
    None: "neither the venue nor the publisher numbers this stream",
}


def judge(evidence: Evidence, whole: Span) -> Answer:
    """The answer for a range [start, end), which must not be empty."""
    if evidence.basis is None:
        return Unknown(None, "no_sequence", LIMITS[None], (whole,))
    found = missing_in(evidence, whole)
    if found:
        return Gaps(evidence.basis, tuple(found))
    held = held_in(evidence, whole)
    if held:
        first = held[0]
        spans = tuple((max(whole[0], one.from_micros), whole[1]) for one in held)
        return Unknown(evidence.basis, first.kind, first.reason, spans)
    outside = without(whole, [*(one.span for one in evidence.extents), *evidence.closed])
    if outside:
        told = "; ".join(one for one in (_where(evidence, outside[0]), evidence.doubt) if one)
        return Unknown(evidence.basis, "outside", told, tuple(outside))
    return Complete(evidence.basis)


def missing_in(evidence: Evidence, whole: Span) -> list[Missing]:
    """What is missing, or may be, in a range: oldest first, with the times that can be told."""
    open_ones = (_bounded(one, evidence.extents) for one in evidence.missing if one.state != "filled")
    return sorted(
        (one for one in open_ones if _touches(one, whole)),
        key=lambda one: (one.from_micros is not None, one.from_micros or 0, one.session, one.first),
    )


def bounded(evidence: Evidence) -> Evidence:
    """The same evidence, with the times told that can be: asked again and again, it answers faster."""
    return replace(evidence, missing=[_bounded(one, evidence.extents) for one in evidence.missing])


def _touches(one: Missing, whole: Span) -> bool:
    before = one.from_micros is None or one.from_micros < whole[1]
    return before and (one.to_micros is None or one.to_micros >= whole[0])


def _bounded(one: Missing, extents: Sequence[Extent]) -> Missing:
    """Numbers before the first message of a session came after the session before, as far as one is on record; and
    what lies below the last number came before it. The venue's clock may go back between two messages."""
    low, high = one.from_micros, one.to_micros
    if high is None:
        high = max((extent.span[1] - 1 for extent in extents if _has(extent, one)), default=None)
    if low is None and high is not None:
        ends = [extent.span[1] - 1 for extent in extents if not _has(extent, one)]
        low = max((end for end in ends if end < high), default=None)
    if low is not None and high is not None:
        low, high = min(low, high), max(low, high)
    return replace(one, from_micros=low, to_micros=high)


def _has(extent: Extent, one: Missing) -> bool:
    return extent.session == one.session and one.last <= extent.last


def held_in(evidence: Evidence, whole: Span) -> list[Held]:
    """Holds that have not ended and touch a range, of the symbol's partitions (of any, where none is known); halts
    first."""
    partitions = {one.kafka_partition for one in evidence.extents}
    found = [
        one
        for one in evidence.held
        if one.to_micros is None
        and (not partitions or one.kafka_partition in partitions)
        and one.from_micros < whole[1]
    ]
    return sorted(found, key=lambda one: (one.kind != "halted", one.from_micros))


def _where(evidence: Evidence, outside: Span) -> str:
    spans = [one.span for one in evidence.extents]
    if not spans:
        return "nothing was received of this symbol"
    if outside[0] < min(start for start, _ in spans):
        return "before the first message that was received"
    if outside[1] > max(end for _, end in spans):
        return "after the last message that was received"
    return "between two sessions: numbers do not show what came after the last message of one and before the next"
