"""Completeness, against two brute-force models: tick by tick over the evidence, and a world that knows what it lost."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.coverage.asking import Rows, evidence_of
from k2_dagster.coverage.calendar import Closing
from k2_dagster.coverage.complete import Complete, Evidence, Extent, Gaps, Held, Missing, Unknown, judge
from k2_dagster.coverage.received import received
from k2_dagster.coverage.spans import without
from k2_dagster.ingest import kernel
from k2_dagster.ingest.numbering import Numbering
from k2_dagster.schemas.profiles import Domain, StreamProfile
from k2_dagster.state.frames import unframed
from k2_dagster.state.times import from_micros
from k2_dagster.state.tracked import VENUE
from tests.ingest.judging import judge as judge_rows
from tests.ingest.oracle import Row

TICKS = 30
ALWAYS = Closing([], "")
TIMES = st.integers(0, TICKS - 1)
TRADE = ("trade", StreamProfile(dataset="ticks", domain=Domain.DENSE))


def gap(low: int | None, high: int | None, **others: Any) -> Missing:
    values: dict[str, Any] = {
        "numbering": "venue",
        "session": "s",
        "channel": "",
        "first": 5,
        "last": 6,
        "count": 2,
        "state": "open",
        "cause": "unknown",
        "level": "warn",
        "gap_id": 1,
    }
    return Missing(**values | others, from_micros=low, to_micros=high)


def extent(low: int, high: int, session: str = "s", partition: int = 0) -> Extent:
    return Extent(partition, session, 1, 100, low, high)


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int]:
    low, high = sorted((draw(TIMES), draw(TIMES)))
    return low, high + 1


HELD = st.builds(
    lambda span, partition, kind, lasts: Held(partition, kind, span[0], None if lasts else span[1], "why"),
    *(spans(), st.integers(0, 1), st.sampled_from(["halted", "deferred"]), st.booleans()),
)
EVIDENCE = st.builds(
    Evidence,
    basis=st.just("venue"),
    extents=st.lists(st.builds(lambda span: extent(span[0], span[1] - 1), spans()), max_size=3),
    missing=st.lists(st.builds(lambda span, state: gap(span[0], span[1] - 1, state=state), spans(),
                               st.sampled_from(["open", "filled", "accepted", "expired"])), max_size=2),
    held=st.lists(HELD, max_size=2),
    closed=st.lists(spans(), max_size=2),
)  # fmt: skip


def tick_by_tick(evidence: Evidence, whole: tuple[int, int]) -> tuple[str, set[int]]:
    """The answer and the ticks that it is about, by looking at every tick alone."""
    ticks = range(*whole)
    partitions = {one.kafka_partition for one in evidence.extents}
    gone = {t for t in ticks for one in evidence.missing
            if one.state != "filled" and (one.from_micros or 0) <= t <= (one.to_micros or 0)}  # fmt: skip
    if gone:
        return "gaps", gone
    for kind in ("halted", "deferred"):
        if any(
            one.kind == kind
            and (not partitions or one.kafka_partition in partitions)
            and one.to_micros is None
            and one.from_micros <= t
            for one in evidence.held
            for t in ticks
        ):
            return kind, set()
    seen = {t for t in ticks for one in evidence.extents if one.from_micros <= t <= one.to_micros}
    closed = {t for t in ticks for start, end in evidence.closed if start <= t < end}
    left = set(ticks) - seen - closed
    return ("outside", left) if left else ("complete", set())


@settings(max_examples=400, deadline=None)
@given(EVIDENCE, spans())
def test_every_answer_is_that_of_looking_tick_by_tick(evidence: Evidence, whole: tuple[int, int]) -> None:
    wanted, ticks = tick_by_tick(evidence, whole)
    answer = judge(evidence, whole)
    if isinstance(answer, Unknown):
        assert answer.reason == wanted
        if wanted == "outside":
            assert {t for start, end in answer.spans for t in range(start, end)} == ticks
    else:
        assert answer.answer == wanted


@given(st.lists(spans(), max_size=4), spans())
def test_what_is_left_of_a_span(parts: list[tuple[int, int]], whole: tuple[int, int]) -> None:
    left = without(whole, parts)
    inside = {t for start, end in parts for t in range(start, end)}
    assert [t for start, end in left for t in range(start, end)] == [t for t in range(*whole) if t not in inside]


@st.composite
def worlds(draw: st.DrawFn) -> list[tuple[str, str]]:
    """(session, fate) of messages that happen one after another: landed, late, lost, refused, or unreadable."""
    session, out = "s1", []
    for _ in range(draw(st.integers(1, 40))):
        if draw(st.integers(0, 14)) == 0:
            session = f"s{int(session[1:]) + 1}"
        out.append((session, draw(st.sampled_from(["landed"] * 12 + ["lost", "late", "refused", "unreadable"]))))
    return out


def numbered(world: Sequence[tuple[str, str]]) -> list[tuple[int, str, int, str]]:
    """(time, session, number, fate)"""
    counts: dict[str, int] = {}
    out = []
    for at, (session, fate) in enumerate(world):
        counts[session] = counts.get(session, 0) + 1
        out.append((1_000 * at, session, counts[session], fate))
    return out


def arriving(messages: list[tuple[int, str, int, str]]) -> list[Row]:
    """As rows in the order of their arrival; a late one comes six messages later."""
    order = sorted(
        ((at + (6.5 if fate == "late" else 0), one) for at, one in enumerate(messages) for fate in [one[3]]),
        key=lambda pair: pair[0],
    )
    flags = {"refused": kernel.REFUSED, "unreadable": kernel.UNREADABLE}
    rows = []
    for offset, (_, (time, session, number, fate)) in enumerate(order):
        if fate == "lost":
            continue
        key = (0, "trade", "trade", session, "A")
        # micros of a row are 1_000 * time_ms - 7
        rows.append(Row(key, number, number - 1, flags.get(fate, kernel.GOOD), (0, "A"), 0, offset, time // 1_000))
    return rows


def ledger(events: Sequence[Any]) -> list[dict[str, Any]]:
    """The gap rows that the events make, folded."""
    gaps: dict[Any, dict[str, Any]] = {}
    for _, kind, key, first, last, origin, opened, before, after in events:
        place = (opened, first if kind == kernel.REPORT else origin)
        if kind == kernel.REPORT:
            gaps[place] = {
                "id": len(gaps), "numbering": VENUE, "stream": "trade", "symbol": "A", "session": key[3], "channel": "",
                "first_sequence": first, "last_sequence": last, "missing": last - first + 1, "filled": 0,
                "state": "open", "cause": "unknown", "level": "warn", "event_day": "2026-01-01",
                "from_time": from_micros(before), "to_time": from_micros(after),
            }  # fmt: skip
        elif kind in (kernel.FILL, kernel.FILL_EXPLAINED):
            gaps[place]["filled"] += last - first + 1
            if gaps[place]["filled"] == gaps[place]["missing"]:
                gaps[place]["state"] = "filled"
    return list(gaps.values())


@settings(max_examples=300, deadline=None)
@given(worlds(), st.data())
def test_a_range_in_which_something_is_missing_is_never_complete(world: list[tuple[str, str]], data: Any) -> None:
    messages = numbered(world)
    numbering = Numbering()
    _, events = judge_rows(numbering, arriving(messages), 3, 10_000_000)
    tables = dict(unframed(numbering.dump()))
    found = received("x", "ticks", VENUE, tables, is_open=True, symbol="A")
    rows = Rows(found.intervals.to_pylist(), found.holes.to_pylist(), ledger(events))
    evidence = evidence_of(rows, ALWAYS, TRADE, "A")
    start = data.draw(st.integers(-1, len(world)))
    whole = (1_000 * start - 7, 1_000 * data.draw(st.integers(start + 1, len(world) + 1)) - 7)
    inside = [fate for time, _, _, fate in messages if whole[0] <= time - 7 < whole[1]]

    answer = judge(evidence, whole)

    if set(inside) & {"lost", "refused", "unreadable"}:
        assert not isinstance(answer, Complete), (evidence, whole)
    landed = [time - 7 for time, _, _, fate in messages if fate in ("landed", "late")]
    perfect = {fate for _, _, _, fate in messages} <= {"landed"} and len({session for session, _ in world}) == 1
    if perfect and whole[0] >= min(landed) and whole[1] <= max(landed) + 1:
        assert isinstance(answer, Complete)


def test_between_two_sessions_nobody_can_tell_unless_the_exchange_was_closed() -> None:
    evidence = Evidence("venue", [extent(0, 10, "s"), extent(20, 30, "t")])
    answer = judge(evidence, (5, 25))
    assert isinstance(answer, Unknown)
    assert (answer.reason, answer.spans) == ("outside", ((11, 20),))
    assert "between two sessions" in answer.detail
    closed = Evidence("venue", evidence.extents, closed=[(11, 20)])
    assert judge(closed, (5, 25)) == Complete("venue")


def test_before_the_first_and_after_the_last_message_are_told_apart() -> None:
    evidence = Evidence("publisher", [extent(10, 20)])
    for whole, words in (((0, 15), "before the first"), ((15, 30), "after the last")):
        answer = judge(evidence, whole)
        assert isinstance(answer, Unknown)
        assert words in answer.detail
    nothing = judge(Evidence("venue"), (0, 1))
    assert isinstance(nothing, Unknown)
    assert "nothing was received" in nothing.detail


def test_a_stream_without_numbers_is_unknown() -> None:
    assert judge(Evidence(None, missing=[gap(0, 9)]), (0, 5)) == Unknown(
        None, "no_sequence", "neither the venue nor the publisher numbers this stream", ((0, 5),)
    )


def test_numbers_before_a_sessions_first_message_came_after_the_session_before() -> None:
    """A publisher that starts anew begins at 1: what is missing there says nothing of last week."""
    late = gap(None, 50, session="t", first=1, last=4)
    evidence = Evidence("publisher", [extent(0, 20, "s"), extent(50, 60, "t")], [late])
    assert judge(evidence, (5, 15)) == Complete("publisher")
    assert isinstance(judge(evidence, (5, 30)), Gaps)
    alone = Evidence("publisher", [extent(50, 60, "t")], [late])
    assert isinstance(judge(alone, (5, 15)), Gaps)


@pytest.mark.parametrize("state", ["open", "requested", "expired", "accepted"])
def test_numbers_are_missing_until_they_came_whatever_was_decided_about_them(state: str) -> None:
    evidence = Evidence("venue", [extent(0, 20)], [gap(5, 8, state=state)])
    answer = judge(evidence, (0, 20))
    assert isinstance(answer, Gaps)
    assert answer.missing[0].state == state


def test_the_domain_says_whose_numbers_are_asked() -> None:
    numbering = Numbering()
    key = (0, "p", "A")
    rows = [Row(key, n, n - 1, kernel.GOOD, (0, "A"), 0, n, n) for n in (1, 2, 3)]
    judge_rows(numbering, rows, 3, 10_000)
    found = received("x", "ticks", "publisher", dict(unframed(numbering.dump())), is_open=True, symbol=None)
    channel_gap = {
        "id": 1, "numbering": "channel", "stream": "other", "symbol": "*", "session": "c", "channel": "1",
        "first_sequence": 7, "last_sequence": 9, "missing": 3, "filled": 0, "state": "open", "cause": "unknown",
        "level": "warn", "event_day": "1970-01-01", "from_time": from_micros(0), "to_time": from_micros(2_000),
    }  # fmt: skip

    def answer(domain: Domain, symbol: str = "A") -> Any:
        named = ("quote", StreamProfile(dataset="ticks", domain=domain))
        return judge(
            evidence_of(Rows(found.intervals.to_pylist(), [], [channel_gap]), ALWAYS, named, symbol), (993, 2_994)
        )

    assert answer(Domain.MONOTONE) == answer(Domain.NONE) == Complete("publisher")
    assert isinstance(answer(Domain.CHANNEL), Gaps)
    assert answer(Domain.DENSE).reason == "outside"
    assert answer(Domain.NONE, "B").reason == "no_sequence"


def test_what_is_not_known_of_the_calendar_is_told_where_it_matters() -> None:
    row = {"numbering": "venue", "stream": "trade", "kind": "trade", "session": "", "symbol": "A", "kafka_partition": 0}
    times = {"first_sequence": 1, "last_sequence": 9, "from_time": from_micros(10), "to_time": from_micros(20)}
    evidence = evidence_of(Rows([row | times], [], []), Closing([], "there is no calendar of XCME"), TRADE, "A")
    assert judge(evidence, (12, 18)).answer == "complete"
    answer = judge(evidence, (12, 30))
    assert isinstance(answer, Unknown)
    assert answer.detail == "after the last message that was received; there is no calendar of XCME"
