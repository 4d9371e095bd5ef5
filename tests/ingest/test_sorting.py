"""The order of rows in a file is that of a general sort, also where feeds are not nearly in order."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.ingest.columns import Codes, combine, encode
from k2_dagster.ingest.sorting import MAX_MOVES_PER_ROW, file_order


def expected(symbols: list[str | None], time: list[int], sequence: list[int]) -> list[int]:
    return sorted(range(len(time)), key=lambda at: (symbols[at] or "", time[at], sequence[at]))


def order(symbols: list[str | None], time: list[int], sequence: list[int]) -> list[int]:
    distinct = list(dict.fromkeys(symbols))
    codes = Codes(np.array([distinct.index(one) for one in symbols], dtype=np.int32), distinct)
    found: list[int] = file_order(codes, np.array(time, dtype=np.int64), np.array(sequence, dtype=np.int64)).tolist()
    return found


ROWS = st.lists(st.tuples(st.sampled_from(["A", "B", "Ä", "語", "AA", None]), st.integers(-3, 3), st.integers(-1, 3)))


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_rows_are_sorted_and_equal_ones_keep_their_order(rows: list[tuple[str | None, int, int]]) -> None:
    columns = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    assert order(*columns) == expected(*columns)


@pytest.mark.parametrize("kind", ["reversed", "random", "constant"])
def test_rows_far_from_order_are_sorted_too(kind: str) -> None:
    count = 40 * MAX_MOVES_PER_ROW
    time = {
        "reversed": list(range(count, 0, -1)),
        "random": np.random.default_rng(1).integers(0, count, count).tolist(),
        "constant": [5] * count,
    }[kind]
    symbols: list[str | None] = ["A" if at % 3 else "B" for at in range(count)]
    assert order(symbols, time, [0] * count) == expected(symbols, time, [0] * count)


def test_one_long_name_costs_its_own_length_only() -> None:
    names: list[str | None] = [f"S{at}" for at in range(2_000)]
    names[7] = "X" * 4_000_000  # as an array of texts this were 32 GB
    codes = Codes(np.arange(2_000, dtype=np.int32), names)
    zeros = np.zeros(2_000, dtype=np.int64)
    assert file_order(codes, zeros, zeros)[-1] == 7


def test_more_combinations_than_an_integer_counts_are_kept_apart() -> None:
    count = 70_000
    rng = np.random.default_rng(1)
    columns = [
        Codes(rng.permutation(count).astype(np.int32), [f"{name}{at}" for at in range(count)]) for name in "abcd"
    ]
    rows, parts = combine(columns)
    for at in (0, 1, count - 1):
        assert parts[rows[at]] == tuple(one.values[one.indices[at]] for one in columns)
    assert len(set(parts)) == len(parts) == count


@given(st.lists(st.sampled_from(["", "A", "B", "AB", None]), min_size=1))
def test_codes_are_the_texts(values: list[str | None]) -> None:
    codes = encode(pa.array(["x", *values, "y"], pa.string()).slice(1, len(values)))
    assert [codes.values[at] for at in codes.indices.tolist()] == values
    assert codes.arrow().to_pylist() == values
