"""Late numbers of a channel fill its gaps: each once, whoever tells it, however often and in whatever pieces."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.state.attempts import insert_attempt
from k2_dagster.state.channel_fills import CHANNEL, CameLate, without
from k2_dagster.state.database import Database
from k2_dagster.state.gaps import GapFilter, read_gaps
from tests.state.test_state import GAP, attempt, land

CHANNEL_GAP = replace(
    GAP, numbering=CHANNEL, stream="tops", kind="", session="s", symbol="*", channel="c", first_sequence=10,
    last_sequence=19, missing=10, opened_offset=7,
)  # fmt: skip
ranges = st.tuples(st.integers(0, 30), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(ranges, st.lists(ranges, max_size=5))
def test_what_is_left_without_ranges(whole: tuple[int, int], taken: list[tuple[int, int]]) -> None:
    left = without(*whole, taken)
    numbers = [number for first, last in left for number in range(first, last + 1)]
    gone = {number for first, last in taken for number in range(first, last + 1)}
    assert numbers == [number for number in range(whole[0], whole[1] + 1) if number not in gone]


def late(first: int, last: int, offset: int, session: str = "s", channel: str = "c") -> CameLate:
    return CameLate(channel, session, first, last, 0, 0, offset)


def found(database: Database) -> list[tuple[Any, ...]]:
    with database.begin() as connection:
        gaps = read_gaps(connection, GapFilter())
    return [(one["first_sequence"], one["filled"], one["state"]) for one in gaps]


@pytest.mark.stack
def test_each_number_fills_once(database: Database) -> None:
    other = replace(CHANNEL_GAP, first_sequence=30, last_sequence=34, missing=5, opened_offset=8)
    insert_attempt(database, attempt("a", None, CHANNEL_GAP, other))
    insert_attempt(database, attempt("b", "a", late(12, 14, 10), late(14, 15, 11), late(12, 15, 12), start=10, end=20))
    insert_attempt(database, attempt("loser", "a", late(10, 19, 13), start=10, end=20))
    for _ in range(2):
        land(database, "a", "b")
    assert found(database) == [(10, 4, "open"), (30, 0, "open")]
    strangers = (late(10, 40, 20, session="t"), late(10, 40, 21, channel="d"))
    insert_attempt(database, attempt("c", "b", *strangers, late(0, 31, 22), start=20, end=30))
    land(database, "a", "b", "c")
    assert found(database) == [(10, 10, "filled"), (30, 2, "open")]
