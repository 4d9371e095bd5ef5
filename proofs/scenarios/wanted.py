"""The ledger that the ground truth of a scenario asks for, by rules of the proof's own: nothing here knows the tracker.

It knows what was planted (`Run.truth`) and what lies in Kafka; where a gap shows, when its grace is over and what came
late follows from these by looking through the messages of a key, one after another.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from k2_dagster.schemas.profiles import Domain
from proofs.scenarios.asked import Scenario
from proofs.scenarios.sending import AGAIN, COPY, DAMAGED, FAR_NUMBER, GOOD, LATE, SPOILED, Run, Sent, Topic

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
VENUE, PUBLISHER = "venue", "publisher"
MS_PER_DAY = 86_400_000
# Numbers of a key, first to last.
Span = tuple[int, int]
Key = tuple[str, str]


def moment(micros: int | None) -> datetime | None:
    """UTC microseconds as the database gives them back."""
    return None if micros is None else EPOCH + timedelta(microseconds=micros)


@dataclass
class View:
    """A topic as one numbering sees it: messages by (session, symbol), in the order of their offsets. A venue's number
    that is far ahead refuses its message, whose publisher's number is sound: there it is a spoiled one."""

    topic: Topic
    domain: Domain
    numbering: str
    strict: bool
    keys: dict[Key, list[Sent]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = "session" if self.numbering == VENUE else "publisher_session"
        for one in self.topic.messages:
            refused = self.domain.judged_by_ingest and self.numbering == PUBLISHER and one.damage == FAR_NUMBER
            seen = one._replace(state=SPOILED) if refused else one
            self.keys.setdefault((one.row[name] or "", one.row["symbol"]), []).append(seen)
        if self.numbering == VENUE:
            self.keys = {key: self._in_order(found) for key, found in self.keys.items()}

    def _in_order(self, found: list[Sent]) -> list[Sent]:
        """What comes late and still before anything above it, as at the end of a run, is in order."""
        out, highest = [], -1
        for one in found:
            first, last = self.span(one.row)
            out.append(one._replace(state=GOOD) if one.state == LATE and first > highest else one)
            highest = max(highest, last if one.state in (GOOD, LATE) else -1)
        return out

    def span(self, row: dict[str, Any]) -> Span:
        """The numbers that a message stands for."""
        if self.numbering == PUBLISHER:
            return row["publisher_sequence"], row["publisher_sequence"]
        if self.domain in (Domain.RANGE, Domain.LINKED):
            return row["previous_sequence"] + 1, row["sequence"]
        return row["sequence"], row["sequence"]

    def good(self, key: Key) -> list[Sent]:
        """Messages that land and are in order."""
        behind = (LATE,) if self.numbering == VENUE else ()
        # what has come by another publisher session is no copy to the numbers of this one
        return [one for one in self.keys.get(key, []) if one.state in (GOOD, LATE, AGAIN) and one.state not in behind]

    def counted(self, key: Key) -> list[Sent]:
        """Messages whose number could be read."""
        return [one for one in self.keys[key] if one.state != DAMAGED]

    def around(self, key: Key, span: Span) -> tuple[Sent | None, Sent | None]:
        """The last good message below some numbers, and the first above them."""
        below, above = None, None
        for one in self.good(key):
            first, last = self.span(one.row)
            if last < span[0]:
                below = one
            elif first > span[1] and above is None:
                above = one
        return below, above


def end_of_hold(topic: Topic, partition: int, offset: int) -> dict[str, Any]:
    """The first row behind a halted partition's last: what goes to quarantine says no time that can be trusted."""
    behind = (one for one in topic.messages if one.partition == partition and one.offset > offset)
    first = next((one for one in behind if one.state in (GOOD, LATE)), None)
    if first is None:
        return {"to_offset": None, "to_time": None}
    return {"to_offset": first.offset, "to_time": moment(first.row["exchange_timestamp"])}


def views(scenario: Scenario, run: Run) -> Iterator[View]:
    """Every topic in the numberings that judge it: the venue's where ingest can, the publisher's always."""
    strict = scenario.first_offset == 0
    for topic in run.kafka.topics.values():
        domain = scenario.domain(topic.dataset)
        if domain.judged_by_ingest:
            yield View(topic, domain, VENUE, strict)
        yield View(topic, domain, PUBLISHER, strict)


@dataclass(frozen=True)
class Missing:
    """Numbers of a key that a fault took away: `how` is gone, late or damaged."""

    key: Key
    span: Span
    how: str


def missing(view: View, truth: Iterable[dict[str, Any]]) -> list[Missing]:
    """What the faults of a topic took away from one numbering; neighbours of a key together."""
    kinds = {"lose": "gone", "corrupt": "damaged"}
    if view.numbering == VENUE:
        kinds |= {"drop": "gone", "late": "late"}
    if view.numbering == VENUE or not view.domain.judged_by_ingest:
        kinds |= {"jump": "damaged"}
    out = []
    for line in truth:
        if line["dataset"] != view.topic.dataset or line["type"] not in kinds:
            continue
        for symbol in sorted({one["symbol"] for one in line["messages"]}):
            session = line["session"] if view.numbering == VENUE else _publisher(view)
            spans = [view.span(one) for one in line["messages"] if one["symbol"] == symbol]
            span = min(first for first, _ in spans), max(last for _, last in spans)
            out.append(Missing((session, symbol), span, kinds[line["type"]]))
    return _joined(sorted(out, key=lambda one: (one.key, one.span)))


def _joined(found: list[Missing]) -> list[Missing]:
    """Messages that cannot be read and follow each other, as those of a rare symbol of a channel may, are one hole."""
    out: list[Missing] = []
    for one in found:
        before = out[-1] if out else None
        if (
            before
            and before.key == one.key
            and before.how == one.how == "damaged"
            and before.span[1] + 1 == one.span[0]
        ):
            out[-1] = Missing(one.key, (before.span[0], one.span[1]), one.how)
        else:
            out.append(one)
    return out


def _publisher(view: View) -> str:
    return next(iter(view.keys))[0]


def touching(view: View, truth: Iterable[dict[str, Any]], grace: int) -> bool:
    """Whether messages that cannot be read come so soon behind others that are missing, or these right behind those,
    that nobody could say which is which: of channels, whose symbols are rarer than the channel's own messages."""
    for _, found in groupby(missing(view, truth), key=lambda one: one.key):
        together = list(found)
        for one, following in pairwise(together):
            if one.how == following.how == "damaged":
                continue
            between = [
                sent
                for sent in view.good(one.key)
                if one.span[1] < view.span(sent.row)[0] and view.span(sent.row)[1] < following.span[0]
            ]
            if len(between) <= grace:
                return True
    return False


class Clock:
    """Record time of a topic's partitions, which never goes back."""

    def __init__(self, topic: Topic) -> None:
        self._offsets, self._now = {}, {}
        for at in range(topic.partitions):
            mine = [one for one in topic.messages if one.partition == at]
            self._offsets[at] = np.array([one.offset for one in mine], np.int64)
            self._now[at] = np.maximum.accumulate(np.array([one.time_ms for one in mine], np.int64))

    def now(self, message: Sent) -> int:
        """Record time when this message was read."""
        at = int(np.searchsorted(self._offsets[message.partition], message.offset))
        return int(self._now[message.partition][at])

    def newest(self, partition: int) -> int:
        """Record time at the end."""
        return int(self._now[partition][-1])

    def first_at(self, partition: int, ms: int, behind: int) -> int | None:
        """Offset of the first message from `behind` on that is read at this time or later."""
        at = int(np.searchsorted(self._now[partition], ms))
        at = max(at, int(np.searchsorted(self._offsets[partition], behind)))
        return int(self._offsets[partition][at]) if at < len(self._offsets[partition]) else None


def reported_at(view: View, clock: Clock, key: Key, above: Sent, scenario: Scenario) -> int | None:
    """Offset of the message with which the grace of what `above` showed is over: by messages of the key, or by time."""
    profile = scenario.profile
    later = [one.offset for one in view.counted(key) if one.offset > above.offset]
    by_count = later[profile.gap_grace_messages - 1 : profile.gap_grace_messages]
    deadline = clock.now(above) + int(profile.gap_grace_seconds * 1_000)
    by_time = clock.first_at(above.partition, deadline, above.offset)
    return min([*by_count, *([] if by_time is None else [by_time])], default=None)


def level(count: int, scenario: Scenario) -> str:
    """By the profile's thresholds."""
    if count < scenario.profile.gap_page_at:
        return "warn"
    return "page" if count <= scenario.profile.gap_halt_above else "halt"


def is_over(scenario: Scenario, view: View, clock: Clock) -> set[tuple[int, str]]:
    """(partition, session) that nobody needs to remember: twice the days of closed sessions have passed since its last
    message, and another of the stream has begun."""
    if view.numbering == PUBLISHER:
        return set()
    seen: dict[int, dict[str, list[int]]] = {}
    for one in view.topic.messages:
        if one.is_readable:
            times = seen.setdefault(one.partition, {}).setdefault(one.row["session"], [])
            times.append(clock.now(one))
    horizon = 2 * scenario.profile.closed_session_days * MS_PER_DAY
    return {
        (partition, session)
        for partition, sessions in seen.items()
        for session, times in sessions.items()
        if clock.newest(partition) - times[-1] > horizon and max(one[0] for one in sessions.values()) > times[-1]
    }


def stretches(view: View, key: Key) -> list[tuple[Span, Sent]]:
    """Numbers of spoiled messages that follow each other, with the last message of each stretch."""
    out: list[tuple[Span, Sent]] = []
    for one in view.keys[key]:
        if one.state != SPOILED:
            continue
        first, last = view.span(one.row)
        if out and out[-1][0][1] + 1 == first:
            out[-1] = ((out[-1][0][0], last), one)
        else:
            out.append(((first, last), one))
    return out


def landing(topics: Iterable[Topic]) -> Iterator[tuple[str, Sent, Sequence[str]]]:
    """Each message with the reasons for which it may be in quarantine; none for a row."""
    for topic in topics:
        for one in topic.messages:
            reasons: Sequence[str] = ()
            if one.state == DAMAGED:
                reasons = _DAMAGE_REASONS[one.damage]
            elif one.state in (COPY, AGAIN, SPOILED):
                reasons = ("rule_violated",) if one.state == SPOILED else ("duplicate",)
            yield topic.dataset, one, reasons


_DAMAGE_REASONS = {
    "truncated": ("undecodable", "trailing_bytes"),
    "flipped": ("undecodable", "trailing_bytes"),
    "foreign_schema": ("schema_not_for_topic", "undecodable", "trailing_bytes"),
    "unframed": ("not_framed",),
    FAR_NUMBER: ("sequence_jump",),
}
