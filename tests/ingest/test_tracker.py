"""Both numberings and the horizon of closed sessions, against a plain model, under every split into batches."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.ingest import kernel
from k2_dagster.ingest.columns import Codes
from k2_dagster.ingest.returned import Original
from k2_dagster.ingest.sessions import MS_PER_DAY
from k2_dagster.ingest.tracker import Input, Tracker
from k2_dagster.state.tracked import CHANNEL, PUBLISHER, VENUE
from tests.ingest.judging import state_of
from tests.ingest.tracker_model import HORIZON_MS, STRICT, TERMS, Message, Model


def coded(values: Sequence[str | None]) -> Codes:
    distinct = list(dict.fromkeys(values))
    return Codes(np.array([distinct.index(one) for one in values], dtype=np.int32), distinct)


def as_input(messages: Sequence[Message]) -> Input:
    def column(values: list[Any], dtype: type) -> Any:
        return np.array(values, dtype=dtype)

    sequence = column([one.sequence or one.shared or 0 for one in messages], np.int64)
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
        in_channel=column([one.shared is not None for one in messages], bool),
        channel=coded([one.channel for one in messages]),
        is_aside=column([one.is_aside for one in messages], bool),
        originals={at: Original(0, one.partition, one.offset) for at, one in enumerate(messages) if one.is_returned},
    )


def judge_split(
    messages: list[Message], cuts: set[int], jumps: dict[int, tuple[str, int]] | None = None
) -> tuple[Tracker, list[int], dict[str, list[Any]]]:
    """Fills `jumps` with the field and the last number of each, by offset."""
    tracker = Tracker(TERMS)
    verdicts: list[int] = []
    events: dict[str, list[Any]] = {VENUE: [], PUBLISHER: []}
    ends = [*sorted(cut for cut in cuts if 0 < cut < len(messages)), len(messages)]
    for start, end in zip([0, *ends], ends, strict=False):
        tracker = Tracker.load(tracker.dump(), TERMS)
        batch = messages[start:end]
        judged = tracker.judge(as_input(batch), STRICT)
        verdicts += judged.verdict.tolist()
        if jumps is not None:
            jumps |= {batch[row].offset: (one.field, one.last) for row, one in judged.jumps.items()}
        for name, happened in judged.events.items():
            events[name] += [
                (
                    *(batch[one.row].offset, one.kind, one.key, one.first, one.last, one.origin),
                    *(one.opened_offset, one.before_micros, one.after_micros),
                )
                for one in happened
            ]
    return tracker, verdicts, events


@st.composite
def histories(draw: st.DrawFn) -> list[Message]:
    nexts: dict[Any, int] = {}
    now = {0: 10 * MS_PER_DAY, 1: 40 * MS_PER_DAY}

    def number(key: Any) -> int:
        out = max(1, nexts.get(key, 1) + draw(st.sampled_from((0, 0, 0, 0, 0, 1, 3, -1, -4, 15, 16))))
        # some that are far ahead are damage, of others it goes on
        if out - nexts.get(key, 1) < 10 or draw(st.booleans()):
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
        numbered = draw(st.sampled_from(("venue", "venue", "channel", "")))
        venue = number((partition, session, symbol))
        messages.append(
            Message(
                offset,
                partition,
                now[partition],
                flag,
                symbol,
                session if draw(st.integers(0, 5)) else None,
                venue if numbered == "venue" else None,
                publisher if draw(st.integers(0, 5)) else None,
                number((partition, publisher, symbol)),
                shared=venue if numbered == "channel" else None,
                is_aside=draw(st.integers(0, 5)) == 0,
                is_returned=numbered == "venue" and draw(st.integers(0, 7)) == 0,
            )
        )
    return messages


@settings(max_examples=150, deadline=None)
@given(histories(), st.sets(st.integers(1, 39)))
def test_any_split_agrees_with_the_plain_model(messages: list[Message], cuts: set[int]) -> None:
    model = Model()
    for one in messages:
        model.judge(one)
    jumps: dict[int, tuple[str, int]] = {}
    whole, verdicts, events = judge_split(messages, set(), jumps)
    assert verdicts == model.verdicts
    assert jumps == model.jumps
    assert events == {name: oracle.events for name, oracle in model.oracles.items()}
    parts, split_verdicts, split_events = judge_split(messages, cuts, jumps)
    assert (split_verdicts, split_events) == (verdicts, events)
    assert jumps == model.jumps
    for name in (VENUE, PUBLISHER):
        assert state_of(parts.numberings[name]) == state_of(whole.numberings[name])
    for name in (VENUE, PUBLISHER, CHANNEL):
        assert parts.sessions[name].dump() == whole.sessions[name].dump()
    assert parts.channels.remembered() == whole.channels.remembered()
    assert parts.channels.recent() == whole.channels.recent()


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
