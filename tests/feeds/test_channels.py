import itertools

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.feeds.channels import ChannelKey, Event, FeedState, Grace, judge, open_holes

GRACE = Grace(messages=3, seconds=1.0)
SCHEMA = pa.schema(
    [
        ("stream", pa.string()),
        ("channel", pa.string()),
        ("session", pa.string()),
        ("sequence", pa.int64()),
        ("exchange_timestamp", pa.timestamp("us", tz="UTC")),
        ("receive_timestamp", pa.timestamp("us", tz="UTC")),
    ]
)
Row = tuple[str | None, str | None, int | None, int]


def batch(rows: list[Row]) -> pa.RecordBatch:
    columns = {
        "stream": ["quote"] * len(rows),
        "channel": [row[0] for row in rows],
        "session": [row[1] for row in rows],
        "sequence": [row[2] for row in rows],
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
        events += [Event(one.row + start, *_rest(one)) for one in found]
    return events, state


def _rest(event: Event) -> tuple[object, ...]:
    return (event.kind, event.stream, event.channel, event.session, event.first, event.last)


def gaps(events: list[Event]) -> list[tuple[int | None, int | None]]:
    return [(event.first, event.last) for event in events if event.kind == "gap"]


def numbers(*sequence: int, session: str | None = None, step_micros: int = 1000) -> list[Row]:
    return [("A", session, number, 10**12 + place * step_micros) for place, number in enumerate(sequence)]


def reference(rows: list[Row]) -> list[tuple[int, str, str | None, int | None, int | None]]:
    """The same rules, one row at a time, as plainly as they can be said."""
    state: dict[str | None, dict[str, object]] = {}
    out: list[tuple[int, str, str | None, int | None, int | None]] = []
    for row, (channel, session, number, micros) in enumerate(rows):
        if channel is not None and number is None:
            continue
        here = state.setdefault(
            channel, {"session": None, "closed": [], "last": None, "count": 0, "time": 0, "holes": []}
        )
        holes: list[list[int]] = here["holes"]  # type: ignore[assignment]
        closed: list[str] = here["closed"]  # type: ignore[assignment]
        if session is not None and session in closed:
            continue
        if session != here["session"]:
            out += [(row, "gap", channel, hole[0], hole[1]) for hole in holes]
            holes.clear()
            if here["session"] is not None:
                closed.append(str(here["session"]))
            here["session"], here["last"] = session, None
            if session is not None:
                out.append((row, "session", channel, number if channel is not None else None, None))
        if channel is None or number is None:
            continue
        here["count"] = int(here["count"]) + 1  # type: ignore[call-overload]
        here["time"] = max(int(here["time"]), micros)  # type: ignore[call-overload]
        count, time = int(here["count"]), int(here["time"])
        for hole in list(holes):
            if count - hole[2] > GRACE.messages or time - hole[3] > GRACE.seconds * 1_000_000:
                out.append((row, "gap", channel, hole[0], hole[1]))
                holes.remove(hole)
        last = number - 1 if here["last"] is None else int(here["last"])  # type: ignore[call-overload]
        if number > last + 1:
            holes.append([last + 1, number - 1, count, time])
        for hole in list(holes):
            if hole[0] <= number <= hole[1]:
                place = holes.index(hole)
                parts = [[hole[0], number - 1, *hole[2:]], [number + 1, hole[1], *hole[2:]]]
                holes[place : place + 1] = [part for part in parts if part[0] <= part[1]]
        here["last"] = max(last, number)
    return out


row_strategy = st.tuples(
    st.sampled_from(["A", "B", None]),
    st.sampled_from(["s1", "s2", None]),
    st.one_of(st.none(), st.integers(0, 12)),
    st.integers(10**12, 10**12 + 3_000_000),
)
mostly_rising = st.lists(st.integers(-3, 4), max_size=40).map(
    lambda steps: numbers(*np.cumsum([100, *steps]).tolist(), session="s", step_micros=150_000)
)


@given(st.one_of(st.lists(row_strategy, max_size=40), mostly_rising), st.lists(st.integers(0, 60), max_size=6))
def test_any_split_gives_the_same_events_and_state(rows: list[Row], cuts: list[int]) -> None:
    whole, state = judged(rows)
    parts, parts_state = judged(rows, cuts)
    assert parts == whole
    assert parts_state == state


@given(st.one_of(st.lists(row_strategy, max_size=40), mostly_rising))
def test_agrees_with_the_rules_said_row_by_row(rows: list[Row]) -> None:
    events, _ = judged(rows)
    told = [(event.row, event.kind, event.channel, event.first, event.last) for event in events]
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
