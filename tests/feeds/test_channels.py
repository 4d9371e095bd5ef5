import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.feeds.channel_rows import ChannelKey
from k2_dagster.feeds.channels import GAPS_KEPT, Event, FeedState, Grace, judge, merged_late, open_holes

GRACE = Grace(messages=3, seconds=1.0)
SCHEMA = pa.schema(
    [
        ("stream", pa.string()),
        ("channel", pa.string()),
        ("session", pa.string()),
        ("sequence", pa.int64()),
        ("previous_sequence", pa.int64()),
        ("exchange_timestamp", pa.timestamp("us", tz="UTC")),
        ("receive_timestamp", pa.timestamp("us", tz="UTC")),
    ]
)
# Channel, session, number, microseconds; and the last number that a row without one announces.
Row = tuple[str | None, str | None, int | None, int] | tuple[str | None, str | None, int | None, int, int | None]
Told = tuple[str, str | None, int | None, int | None]


def announced_of(row: Row) -> int | None:
    return row[4] if len(row) == 5 else None


def batch(rows: list[Row]) -> pa.RecordBatch:
    columns = {
        "stream": ["quote"] * len(rows),
        "channel": [row[0] for row in rows],
        "session": [row[1] for row in rows],
        "sequence": [row[2] for row in rows],
        "previous_sequence": [announced_of(row) for row in rows],
        "exchange_timestamp": [row[3] for row in rows],
        "receive_timestamp": [None] * len(rows),
    }
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def judged(rows: list[Row], cuts: list[int] | None = None) -> tuple[list[Event], FeedState]:
    edges = sorted({0, len(rows), *(cut % (len(rows) + 1) for cut in cuts or [])})
    state: FeedState = {}
    events: list[Event] = []
    for start, stop in itertools.pairwise(edges):
        state, found = judge(state, batch(rows[start:stop]), GRACE)
        events += [replace(one, row=one.row + start) for one in found]
    return events, state


def gaps(events: list[Event]) -> list[tuple[int | None, int | None]]:
    return [(event.first, event.last) for event in events if event.kind == "gap"]


def numbers(*sequence: int, session: str | None = None, step_micros: int = 1000) -> list[Row]:
    return [("A", session, number, 10**12 + place * step_micros) for place, number in enumerate(sequence)]


@dataclass
class Plain:
    """The rules for one channel, one row at a time, as plainly as they can be said."""

    channel: str | None
    session: str | None = None
    closed: list[str] = field(default_factory=list)
    last: int | None = None
    count: int = 0
    time: int = 0
    # missing number -> when its hole opened
    holes: dict[int, tuple[int, int]] = field(default_factory=dict)
    told: set[tuple[str | None, int]] = field(default_factory=set)  # session and number of what was told missing

    def change(self, session: str | None, number: int | None) -> Iterator[Told]:
        yield from self.gaps(list(self.holes))
        if self.session is not None:
            self.closed.append(self.session)
        self.session, self.last = session, None
        if session is not None:
            yield "session", self.channel, number if self.channel is not None else None, None

    def see(self, number: int, micros: int, *, announced: bool) -> Iterator[Told]:
        """`announced`: the number was sent, but this is not it."""
        self.count, self.time = self.count + (not announced), max(self.time, micros)
        expired = [
            one for one, (count, time) in self.holes.items()
            if self.count - count > GRACE.messages or self.time - time > GRACE.seconds * 1_000_000
        ]  # fmt: skip
        yield from self.gaps(expired)
        if self.last is not None:
            behind = number + announced
            self.holes.update(dict.fromkeys(range(self.last + 1, behind), (self.count, self.time)))
        if not announced:
            self.holes.pop(number, None)
            yield from self.late(self.session, number)
        self.last = max(self.last if self.last is not None else number, number)

    def late(self, session: str | None, number: int) -> Iterator[Told]:
        if (session, number) in self.told:
            self.told.remove((session, number))
            yield "late", self.channel, number, number

    def gaps(self, numbers: list[int]) -> Iterator[Told]:
        """Runs of numbers that went missing together."""
        for one in numbers:
            if one - 1 not in numbers or self.holes[one - 1] != self.holes[one]:
                last = one
                while last + 1 in numbers and self.holes[last + 1] == self.holes[one]:
                    last += 1
                yield "gap", self.channel, one, last
        for one in numbers:
            del self.holes[one]
            self.told.add((self.session, one))


def reference(rows: list[Row]) -> list[tuple[int, Told]]:
    channels: dict[str | None, Plain] = {}
    out: list[tuple[int, Told]] = []
    for row, one in enumerate(rows):
        channel, session, number, micros = one[:4]
        announced = number is None and announced_of(one) is not None
        said = announced_of(one) if announced else number
        here = channels.setdefault(channel, Plain(channel))
        if channel is not None and said is None:
            continue
        if session in here.closed:
            if channel is not None and said is not None and not announced:
                out += [(row, told) for told in here.late(session, said)]
            continue
        if session != here.session:
            first = None if said is None else said + announced
            out += [(row, told) for told in here.change(session, first)]
        if channel is not None and said is not None:
            out += [(row, told) for told in here.see(said, micros, announced=announced)]
    return out


row_strategy = st.tuples(
    st.sampled_from(["A", "B", None]),
    st.sampled_from(["s1", "s2", None]),
    st.one_of(st.none(), st.integers(0, 12)),
    st.integers(10**12, 10**12 + 3_000_000),
    st.one_of(st.none(), st.integers(0, 12)),
)


def with_heartbeats(steps: list[tuple[int, bool]]) -> list[Row]:
    """Numbers that mostly rise; some rows are heartbeats, which announce the number that comes next."""
    rows = numbers(*np.cumsum([100, *(step for step, _ in steps)]).tolist(), session="s", step_micros=150_000)
    beats = [False, *(beat for _, beat in steps)]
    return [
        (row[0], row[1], None, row[3], (row[2] or 0) - 1) if beat else row
        for row, beat in zip(rows, beats, strict=True)
    ]


mostly_rising = st.lists(st.tuples(st.integers(-3, 4), st.booleans()), max_size=40).map(with_heartbeats)


@given(st.one_of(st.lists(row_strategy, max_size=40), mostly_rising), st.lists(st.integers(0, 60), max_size=6))
def test_any_split_gives_the_same_events_and_state(rows: list[Row], cuts: list[int]) -> None:
    whole, state = judged(rows)
    parts, parts_state = judged(rows, cuts)
    assert parts == whole
    assert parts_state == state


@given(st.one_of(st.lists(row_strategy, max_size=40), mostly_rising))
def test_agrees_with_the_rules_said_row_by_row(rows: list[Row]) -> None:
    events, _ = judged(rows)
    told = [(event.row, (event.kind, event.channel, event.first, event.last)) for event in events]
    assert sorted(told, key=repr) == sorted(reference(rows), key=repr)


def test_an_unbroken_channel_says_nothing() -> None:
    assert judged(numbers(*range(50)))[0] == []


def test_a_hole_becomes_a_gap_when_its_grace_in_messages_has_passed() -> None:
    assert gaps(judged(numbers(1, 2, 6, 7, 8, 9))[0]) == []
    events, _ = judged(numbers(1, 2, 6, 7, 8, 9, 10))
    assert [(event.row, event.first, event.last) for event in events] == [(6, 3, 5)]


def test_a_hole_becomes_a_gap_when_its_grace_in_time_has_passed() -> None:
    events, _ = judged([("A", None, 1, 10**12), ("A", None, 3, 10**12), ("A", None, 4, 10**12 + 1_000_001)])
    assert gaps(events) == [(2, 2)]


def test_swapped_numbers_within_the_grace_are_no_gap() -> None:
    assert judged(numbers(1, 4, 3, 2, 5, 6, 7, 8, 9))[0] == []


def test_a_partly_filled_hole_reports_what_is_missing() -> None:
    assert gaps(judged(numbers(1, 6, 4, 7, 8, 9, 10))[0]) == [(2, 3), (5, 5)]


def test_a_new_session_starts_anew_and_ends_what_was_open() -> None:
    events, _ = judged([*numbers(7, 8, 10, session="s1"), *numbers(1, 2, 3, session="s2")])
    assert [(event.kind, event.session, event.first) for event in events] == [
        ("session", "s1", 7),
        ("gap", "s1", 9),
        ("session", "s2", 1),
    ]


def test_a_straggler_of_an_ended_session_is_not_a_start() -> None:
    rows = [*numbers(7, 8, session="s1"), *numbers(1, session="s2"), *numbers(9, session="s1")]
    assert [event.session for event in judged(rows)[0]] == ["s1", "s2"]


def test_holes_still_open_at_the_end_are_told() -> None:
    _, state = judged(numbers(1, 5))
    streams: dict[ChannelKey, str] = {("channel", "A"): "quote"}
    assert [(event.first, event.last) for event in open_holes(state, 0, streams)] == [(2, 4)]


def heartbeat(following: int, place: int) -> Row:
    """Says which number comes next; `place` in the run of `numbers` gives its time."""
    return ("A", None, None, 10**12 + place * 1000, following - 1)


def test_a_heartbeat_shows_that_the_last_messages_did_not_come() -> None:
    events, _ = judged([*numbers(1, 2), heartbeat(6, 2), *numbers(*range(6, 11))])
    assert gaps(events) == [(3, 5)]


def test_what_a_heartbeat_announces_is_a_gap_at_the_end_too() -> None:
    _, state = judged([*numbers(1, 2), heartbeat(6, 2)])
    streams: dict[ChannelKey, str] = {("channel", "A"): "quote"}
    assert [(event.first, event.last) for event in open_holes(state, 0, streams)] == [(3, 5)]


def test_a_heartbeat_of_the_number_that_is_due_says_nothing_and_lets_no_grace_pass() -> None:
    beats = [heartbeat(5, place) for place in range(3, 20)]
    assert judged([*numbers(1, 2, 4), *beats, *numbers(3, 5)])[0] == []


def test_a_channel_that_begins_with_a_heartbeat_begins_with_the_number_that_it_announces() -> None:
    assert gaps(judged([heartbeat(7, 0), *numbers(8, 9, 10, 11, 12)])[0]) == [(7, 7)]


def test_what_comes_after_it_was_told_missing_is_late_once() -> None:
    events, state = judged(numbers(1, 2, 6, 7, 8, 9, 10, 5, 4, 5, 11))
    assert [(event.row, event.kind, event.first, event.last) for event in events] == [
        (6, "gap", 3, 5), (7, "late", 5, 5), (8, "late", 4, 4),
    ]  # fmt: skip
    assert [(gap.first, gap.last) for gap in state["channel", "A"].gaps] == [(3, 3)]


def test_a_straggler_of_an_ended_session_fills_its_gap() -> None:
    rows = [*numbers(7, 9, session="s1"), *numbers(1, 8, session="s2"), *numbers(8, 10, session="s1")]
    late = [event for event in judged(rows)[0] if event.kind == "late"]
    assert [(event.row, event.session, event.first) for event in late] == [(4, "s1", 8)]


def test_a_run_of_late_numbers_is_told_as_one() -> None:
    events, _ = judged(numbers(1, 2, 9, 10, 11, 12, 13, 3, 4, 5, 8, 6))
    late = [(event.row, event.first, event.last) for event in merged_late(events) if event.kind == "late"]
    assert late == [(9, 3, 5), (10, 8, 8), (11, 6, 6)]


def test_the_oldest_of_many_gaps_are_forgotten() -> None:
    _, state = judged(numbers(*range(0, 2 * GAPS_KEPT + 20, 2)))
    gaps_kept = state["channel", "A"].gaps
    assert len(gaps_kept) == GAPS_KEPT
    assert gaps_kept[0].first > 1


@given(mostly_rising, st.lists(st.integers(0, 60), max_size=6))
def test_a_gap_lies_between_the_times_of_its_neighbours(rows: list[Row], cuts: list[int]) -> None:
    """As far as they are messages: a heartbeat stands in for the last one that it announces, and for what shows it."""
    events, _ = judged(rows, cuts)
    for event in events:
        if event.kind == "gap" and event.first is not None and event.last is not None:
            came = {row[2]: row[3] for row in reversed(rows[: event.row + 1]) if row[2] is not None}
            beats = {row[3] for row in rows[: event.row + 1] if row[2] is None}
            assert event.before_micros in {came.get(event.first - 1), *beats}
            assert event.after_micros in {came.get(event.last + 1), *came.values(), *beats}
            assert event.before_micros is not None
            assert event.after_micros is not None
