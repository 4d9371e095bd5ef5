"""Digests of row sets."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.schemas.digest import row_digests, total

ROWS = st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 3), min_size=1, max_size=20)


def digest(rows: list[tuple[int, ...]]) -> str:
    return total(row_digests([np.array(column, np.int64) for column in zip(*rows, strict=True)]))


@given(ROWS, st.randoms())
def test_order_does_not_matter(rows: list[tuple[int, ...]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert digest(shuffled) == digest(rows)


@given(ROWS, ROWS)
def test_parts_add_up(one: list[tuple[int, ...]], other: list[tuple[int, ...]]) -> None:
    whole = (int(digest(one), 16) + int(digest(other), 16)) % 2**64
    assert digest(one + other) == f"{whole:016x}"


@given(ROWS, st.data())
def test_a_changed_lost_or_doubled_row_shows(rows: list[tuple[int, ...]], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    column, bit = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 62))
    row = list(rows[place])
    row[column] ^= 1 << bit
    damaged = [*rows[:place], tuple(row), *rows[place + 1 :]]
    assert digest(damaged) != digest(rows)
    assert digest([*rows, rows[place]]) != digest(rows)


def test_columns_are_told_apart_and_no_rows_are_zero() -> None:
    assert digest([(1, 2, 3)]) != digest([(2, 1, 3)])
    assert total(np.empty(0, np.uint64)) == "0" * 16
