from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.feeds.numbering import Numbering, totals_within


@given(st.lists(st.sampled_from("ABCD"), max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_numbers_are_dense_per_key_whatever_the_split(keys: list[str], cuts: list[int]) -> None:
    numbering = Numbering()
    edges = sorted({0, len(keys), *(min(cut, len(keys)) for cut in cuts)})
    given_numbers: list[int] = []
    for start, stop in pairwise(edges):
        given_numbers += numbering.next_numbers(pa.array(keys[start:stop], pa.string())).to_pylist()
    assert given_numbers == [keys[: place + 1].count(key) for place, key in enumerate(keys)]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=50))
def test_running_totals_are_those_of_the_rows_before_with_the_same_code(rows: list[tuple[int, int]]) -> None:
    codes = np.array([code for code, _ in rows], np.int64)
    values = np.array([value for _, value in rows], np.int64)
    running, totals = totals_within(codes, values, 5)
    expected = [sum(value for code, value in rows[: place + 1] if code == rows[place][0]) for place in range(len(rows))]
    assert running.tolist() == expected
    assert totals.tolist() == [sum(value for code, value in rows if code == wanted) for wanted in range(5)]
