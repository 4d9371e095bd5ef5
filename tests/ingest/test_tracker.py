"""Both numberings and the horizon of closed sessions, against a plain model, under every split into batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.ingest import kernel
from k2_dagster.ingest.columns import Codes
from k2_dagster.ingest.sessions import MS_PER_DAY
from k2_dagster.ingest.tracker import Input, Terms, Tracker
from k2_dagster.state.tracked import PUBLISHER, VENUE
from tests.ingest.judging import state_of
from tests.ingest.oracle import Oracle, Row

TERMS = Terms(grace_messages=3, grace_ms=2 * MS_PER_DAY, horizon_days=2)
HORIZON_MS = 2 * MS_PER_DAY
STRICT = frozenset({1})
Event = tuple[int, ...]


@dataclass(frozen=True)
class Message:
    """One message, as the tracker sees it. `sequence` None: the stream is not judged by the venue's numbers."""

    offset: int
    partition: int = 0
    time_ms: int = 0
    flag: int = kernel.GOOD
    symbol: str | None = "A"
    session: str | None = "s"
    sequence: int | None = 1
    publisher: str | None = "p"
    number: int = 1
    stream: str = "trade"


def coded(values: Sequence[str | None]) -> Codes:
    distinct = list(dict.fromkeys(values))
    return Codes(np.array([distinct.index(one) for one in values], dtype=np.int32), distinct)


def as_input(messages: Sequence[Message]) -> Input:
    def column(values: list[Any], dtype: type) -> Any:
        return np.array(values, dtype=dtype)

    sequence = column([one.sequence or 0 for one in messages], np.int64)
    return Input(
        partition=column([one.partition for one in messages], np.int32),
        offset=column([one.offset for one in messages], np.int64),
        time_ms=column([one.time_ms for one in messages], np.int64),
        flag=column([one.flag for one in messages], np.int8),
        by_venue=column([one.sequence is not None for one in messages], bool),
        sparse=np.zeros(len(messages), dtype=bool),
        stream=coded([one.stream for one in messages]),
        kind=coded(["trade"] * len(messages)),
        session=coded([one.session for one in messages]),
        symbol=coded([one.symbol for one in messages]),
        sequence=sequence,
        previous=sequence - 1,
        event_micros=column([1_000 * one.time_ms - 7 for one in messages], np.int64),
        publisher_session=coded([one.publisher for one in messages]),
        publisher_sequence=column([one.number for one in messages], np.int64),
        has_publisher=column([one.publisher is not None for one in messages], bool),
    )


def judge_split(messages: list[Message], cuts: set[int]) -> tuple[Tracker, list[int], dict[str, list[Any]]]:
    tracker = Tracker(TERMS)
    verdicts: list[int] = []
    events: dict[str, list[Any]] = {VENUE: [], PUBLISHER: []}
    ends = [*sorted(cut for cut in cuts if 0 < cut < len(messages)), len(messages)]
    for start, end in zip([0, *ends], ends, strict=False):
        tracker = Tracker.load(tracker.dump(), TERMS)
        batch = messages[start:end]
        judged = tracker.judge(as_input(batch), STRICT)
        verdicts += judged.verdict.tolist()
        for name, happened in judged.events.items():
            events[name] += [
                (
                    *(batch[one.row].offset, one.kind, one.key, one.first, one.last, one.origin),
                    *(one.opened_offset, one.before_micros, one.after_micros),
                )
                for one in happened
            ]
    return tracker, verdicts, events


class Sessions:
    """When each session was last heard of, and when the newest of its stream began."""

    def __init__(self) -> None:
        self.last: dict[Any, int] = {}
        self.newest: dict[Any, int] = {}

    def is_old(self, stream: Any, session: str | None, now: int) -> bool:
        """Notes the session, unless it is old."""
        name = (stream, session)
        before = self.last.get(name)
        if before is None:
            self.newest[stream] = max(now, self.newest.get(stream, now))
        elif now - before > HORIZON_MS and self.newest[stream] > before:
            return True
        self.last[name] = now
        return False


class Model:
    """The tracker, message by message."""

    def __init__(self) -> None:
        self.oracles = {name: Oracle(TERMS.grace_messages, TERMS.grace_ms) for name in (VENUE, PUBLISHER)}
        self.sessions = {VENUE: Sessions(), PUBLISHER: Sessions()}
        self.now: dict[int, int] = {}
        self.verdicts: list[int] = []

    def judge(self, one: Message) -> None:
        now = self.now[one.partition] = max(one.time_ms, self.now.get(one.partition, one.time_ms))
        readable = one.flag != kernel.UNREADABLE
        taking_part = {
            VENUE: readable and one.sequence is not None,
            PUBLISHER: readable and one.publisher is not None,
        }
        named = {VENUE: one.session, PUBLISHER: one.publisher}
        old = {
            name: part and self.sessions[name].is_old(one.partition, named[name], now)
            for name, part in taking_part.items()
        }
        flags = {
            name: kernel.SKIPPED if readable and (not part or old[name]) else one.flag
            for name, part in taking_part.items()
        }
        numbers = {VENUE: one.sequence or 0, PUBLISHER: one.number}
        starts = {VENUE: kernel.NEVER, PUBLISHER: 0 if one.partition in STRICT else kernel.NEVER}
        keys: dict[str, tuple[Any, ...]] = {
            VENUE: (one.partition, "trade", "trade", one.session, one.symbol),
            PUBLISHER: (one.partition, one.publisher, one.symbol),
        }
        symbol = None if one.symbol is None else (one.partition, one.symbol)
        for name, oracle in self.oracles.items():
            last = numbers[name]
            oracle.judge(
                Row(keys[name], last, last - 1, flags[name], symbol, one.partition, one.offset, one.time_ms)
                if name == VENUE
                else Row(
                    *(keys[name], last, last - 1, flags[name], symbol, one.partition, one.offset, one.time_ms),
                    start=starts[name],
                )
            )
        # The publisher's numbers decide on a refused message that has some
        by_pair = one.flag == kernel.REFUSED and one.publisher is not None
        mine = VENUE if one.sequence is not None and not by_pair else PUBLISHER
        self.verdicts.append(kernel.HORIZON if old[mine] else self.oracles[mine].verdicts[-1])


@st.composite
def histories(draw: st.DrawFn) -> list[Message]:
    nexts: dict[Any, int] = {}
    now = {0: 10 * MS_PER_DAY, 1: 40 * MS_PER_DAY}

    def number(key: Any) -> int:
        out = max(1, nexts.get(key, 1) + draw(st.sampled_from((0, 0, 0, 0, 1, 3, -1, -4))))
        nexts[key] = max(nexts.get(key, 1), out + 1)
        return out

    messages = []
    for offset in range(draw(st.integers(1, 40))):
        partition = draw(st.integers(0, 1))
        now[partition] += draw(st.sampled_from((0, 1, MS_PER_DAY // 2, MS_PER_DAY, 3 * MS_PER_DAY, -MS_PER_DAY)))
        symbol, session, publisher = (
            draw(st.sampled_from("AB")),
            draw(st.sampled_from("rst")),
            draw(st.sampled_from("pq")),
        )
        flag = draw(st.sampled_from((kernel.GOOD,) * 8 + (kernel.REFUSED, kernel.UNREADABLE)))
        messages.append(
            Message(
                offset,
                partition,
                now[partition],
                flag,
                symbol,
                session if draw(st.integers(0, 5)) else None,
                number((partition, session, symbol)) if draw(st.integers(0, 3)) else None,
                publisher if draw(st.integers(0, 5)) else None,
                number((partition, publisher, symbol)),
            )
        )
    return messages


@settings(max_examples=150, deadline=None)
@given(histories(), st.sets(st.integers(1, 39)))
def test_any_split_agrees_with_the_plain_model(messages: list[Message], cuts: set[int]) -> None:
    model = Model()
    for one in messages:
        model.judge(one)
    whole, verdicts, events = judge_split(messages, set())
    assert verdicts == model.verdicts
    assert events == {name: oracle.events for name, oracle in model.oracles.items()}
    parts, split_verdicts, split_events = judge_split(messages, cuts)
    assert (split_verdicts, split_events) == (verdicts, events)
    for name in (VENUE, PUBLISHER):
        assert state_of(parts.numberings[name]) == state_of(whole.numberings[name])
        assert parts.sessions[name].dump() == whole.sessions[name].dump()


def test_publisher_numbers_begin_at_one_only_where_the_topic_was_read_from_its_beginning() -> None:
    def events_of(partition: int) -> list[Any]:
        messages = [Message(at, partition, at, sequence=None, number=4 + at) for at in range(5)]
        return judge_split(messages, set())[2][PUBLISHER]

    assert events_of(0) == []
    assert [event[1:5] for event in events_of(1)] == [(kernel.REPORT, (1, "p", "A"), 1, 3)]


def test_a_message_without_any_number_is_never_a_duplicate() -> None:
    messages = [Message(at, sequence=None, publisher=None) for at in range(3)]
    assert judge_split(messages, set())[1] == [kernel.IN_ORDER] * 3


DAY = MS_PER_DAY
CLOSED = [
    Message(0, time_ms=0, session="old", sequence=1),
    Message(1, time_ms=DAY, session="old", sequence=2),
    Message(2, time_ms=DAY, session="old", sequence=2),
    Message(3, time_ms=2 * DAY, session="new", sequence=1),
]


@pytest.mark.parametrize("cuts", [set(), {2}, {1, 2, 3, 4, 5}])
def test_a_closed_session_is_remembered_for_the_declared_days_and_then_beyond_the_horizon(cuts: set[int]) -> None:
    late = Message(4, time_ms=DAY + HORIZON_MS + 1, session="old", sequence=3)
    _, verdicts, _ = judge_split([*CLOSED, late, replace(late, offset=5)], cuts)
    assert verdicts == [kernel.IN_ORDER, kernel.IN_ORDER, kernel.DUPLICATE, kernel.IN_ORDER] + [kernel.HORIZON] * 2


@pytest.mark.parametrize("cuts", [set(), {1}])
def test_a_session_that_no_other_has_followed_never_closes(cuts: set[int]) -> None:
    messages = [Message(0, time_ms=0, sequence=1), Message(1, time_ms=90 * DAY, sequence=1)]
    assert judge_split(messages, cuts)[1] == [kernel.IN_ORDER, kernel.DUPLICATE]


def test_one_partition_that_is_far_ahead_closes_no_session_of_another() -> None:
    ahead = Message(4, partition=1, time_ms=60 * DAY, session="x", sequence=1)
    again = Message(5, time_ms=2 * DAY, session="old", sequence=2)
    _, verdicts, _ = judge_split([*CLOSED, ahead, again], {4, 5})
    assert verdicts[-1] == kernel.DUPLICATE


def test_an_old_publisher_pair_of_a_venue_numbered_message_opens_no_gap() -> None:
    """Reprocessed from quarantine, a message has the publisher pair of its day; its venue's numbers go on for ever."""
    days = [
        (0, "p", 1),
        (DAY, "q", 1),
        (20 * DAY, "q", 2),
        (20 * DAY, "p", 57),
        *((21 * DAY, "q", n) for n in range(3, 9)),
    ]
    messages = [
        Message(at, 1, time_ms, session=None, sequence=at + 1, publisher=publisher, number=number)
        for at, (time_ms, publisher, number) in enumerate(days)
    ]
    for cuts in (set(), {3}, set(range(len(messages)))):
        _, verdicts, events = judge_split(messages, cuts)
        assert verdicts == [kernel.IN_ORDER] * len(messages)
        assert events[PUBLISHER] == []


@pytest.mark.parametrize("cuts", [set(), {1, 2, 3}])
def test_a_publisher_of_another_stream_closes_no_session(cuts: set[int]) -> None:
    """One publisher for trades, one for auctions: the first is silent over a long weekend."""
    messages = [
        Message(0, sequence=None, publisher="p", number=1),
        Message(1, time_ms=DAY, sequence=None, publisher="q", number=1, stream="auction"),
        Message(2, time_ms=DAY + 2 * HORIZON_MS + 1, sequence=None, publisher="p", number=2),
        Message(3, time_ms=DAY + 2 * HORIZON_MS + 2, sequence=None, publisher="p", number=2),
    ]
    assert judge_split(messages, cuts)[1] == [kernel.IN_ORDER] * 3 + [kernel.DUPLICATE]


def test_what_is_long_closed_is_forgotten() -> None:
    later = Message(4, time_ms=2 * DAY + 2 * HORIZON_MS + 1, session="new", sequence=2)
    tracker, _, _ = judge_split([*CLOSED, later], set())
    assert [key[3] for key in tracker.numberings[VENUE].keys] == ["new"]
