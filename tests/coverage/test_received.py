"""Received intervals out of the tracker's state: what came, and the holes that no gap tells of."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.coverage.received import Received, received, together
from k2_dagster.ingest import kernel
from k2_dagster.ingest.numbering import Numbering
from k2_dagster.state.frames import unframed
from k2_dagster.state.tracked import NEVER, PUBLISHER, QUARANTINED
from tests.ingest.judging import judge
from tests.ingest.oracle import Row


def of(data: bytes, *, is_open: bool = True, symbol: str | None = None) -> Received:
    return received("x", "ticks", PUBLISHER, dict(unframed(data)), is_open=is_open, symbol=symbol)


def rows(numbers: list[int], session: str = "p", symbol: str = "A") -> list[Row]:
    return [
        Row((0, session, symbol), number, number - 1, kernel.GOOD, (0, symbol), 0, at, at)
        for at, number in enumerate(numbers)
    ]


def judged(some: list[Row], *, grace_messages: int = 3) -> Numbering:
    numbering = Numbering()
    judge(numbering, some, grace_messages, 10_000)
    return numbering


def spans(found: Any) -> list[tuple[int, int]]:
    return list(zip(found["first_sequence"].to_pylist(), found["last_sequence"].to_pylist(), strict=True))


def test_the_constants_are_those_of_the_kernel() -> None:
    assert (NEVER, QUARANTINED) == (kernel.NEVER, kernel.QUARANTINED)


def test_an_interval_says_what_came_of_a_key() -> None:
    found = of(judged(rows([3, 4, 6, 5, 5, 7])).dump())

    (interval,) = found.intervals.to_pylist()
    assert (interval["session"], interval["symbol"], interval["stream"]) == ("p", "A", "")
    assert (interval["first_sequence"], interval["last_sequence"]) == (3, 7)
    assert (interval["messages"], interval["out_of_order"], interval["duplicates"]) == (6, 1, 1)
    assert interval["is_open"]
    assert found.holes.num_rows == 0


def test_a_numbering_that_has_seen_nothing_has_no_interval() -> None:
    assert of(Numbering().dump()).intervals.num_rows == 0


def test_a_hole_is_told_until_the_gap_ledger_tells_it() -> None:
    waiting = of(judged(rows([1, 2, 5, 6])).dump())
    assert spans(waiting.holes) == [(3, 4)]
    assert waiting.holes["cause"].to_pylist() == ["waiting"]
    reported = of(judged(rows([1, 2, 5, 6, 7, 8, 9])).dump())
    assert reported.holes.num_rows == 0


def test_what_was_refused_is_a_hole_until_it_comes() -> None:
    some = rows([1, 2, 3, 4])
    some[2] = Row((0, "p", "A"), 3, 2, kernel.REFUSED, (0, "A"), 0, 2, 2)
    found = of(judged(some).dump())
    assert spans(found.holes) == [(3, 3)]
    assert found.holes["cause"].to_pylist() == ["quarantined"]
    again = Row((0, "p", "A"), 3, 2, kernel.GOOD, (0, "A"), 0, 4, 4)
    assert of(judged([*some, again]).dump()).holes.num_rows == 0


def test_what_lies_before_the_first_number_is_no_hole() -> None:
    assert of(judged(rows([100, 101])).dump()).holes.num_rows == 0


def test_a_stretch_of_refused_messages_lies_between_the_times_of_all_of_them() -> None:
    some = [Row((0, "p", "A"), n, n - 1, kernel.REFUSED if 3 <= n <= 5 else kernel.GOOD, (0, "A"), 0, n, 10 * n)
            for n in range(1, 8)]  # fmt: skip
    (hole,) = of(judged(some).dump()).holes.to_pylist()
    assert (hole["first_sequence"], hole["last_sequence"]) == (3, 5)
    assert (hole["from_time"].microsecond, hole["to_time"].microsecond) == (19_993, 49_993)


def test_one_symbol_is_chosen() -> None:
    numbering = judged([*rows([1, 2]), *rows([7], symbol="B")])
    assert of(numbering.dump(), symbol="B").intervals["symbol"].to_pylist() == ["B"]
    assert spans(of(numbering.dump(), symbol="B").intervals) == [(7, 7)]


SESSIONS = st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from("AB"), st.integers(1, 12)), max_size=40)


@settings(max_examples=100, deadline=None)
@given(SESSIONS, st.sets(st.integers(0, 3)))
def test_what_is_forgotten_and_what_is_kept_are_together_what_was_received(
    some: list[tuple[str, str, int]], doomed: set[int]
) -> None:
    numbering = Numbering()
    messages = [
        Row((0, session, symbol), number, number - 1, kernel.GOOD, (0, symbol), 0, at, at)
        for at, (session, symbol, number) in enumerate(some)
    ]
    judge(numbering, messages, 3, 10_000)
    whole = of(numbering.dump())
    forgotten = numbering.forget({one for one in doomed if one < len(numbering.keys)})
    parts = [of(numbering.dump())] + ([of(forgotten, is_open=False)] if forgotten else [])

    def plain(found: Received) -> Any:
        drop = found.intervals.drop_columns(["is_open"]).to_pylist()
        return sorted(map(repr, drop)), sorted(map(repr, found.holes.to_pylist()))

    assert plain(together(parts)) == plain(whole)
