from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.feeds.lines.intervals import Intervals

ranges = st.tuples(st.integers(0, 40), st.integers(0, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def members(pieces: list[tuple[int, int]]) -> list[int]:
    return [number for first, last in pieces for number in range(first, last + 1)]


@given(st.lists(st.tuples(st.booleans(), ranges), max_size=30), ranges)
def test_it_is_a_set(steps: list[tuple[bool, tuple[int, int]]], asked: tuple[int, int]) -> None:
    runs, reference = Intervals(), set[int]()
    for is_added, (first, last) in steps:
        whole = set(range(first, last + 1))
        if is_added:
            assert members(runs.add(first, last)) == sorted(whole - reference)
            reference |= whole
        else:
            assert runs.remove(first, last) == len(whole & reference)
            reference -= whole
        assert members(runs.runs) == sorted(reference)
        # Runs that touch are one
        assert all(after[0] > before[1] + 1 for before, after in zip(runs.runs, runs.runs[1:], strict=False))
        assert members(runs.gaps(*asked)) == sorted(set(range(asked[0], asked[1] + 1)) - reference)


def test_what_is_oldest_goes_first() -> None:
    runs = Intervals()
    for first in (1, 5, 9):
        runs.add(first, first + 1)
    assert runs.close_oldest_gap() == 2
    assert runs.runs == [(1, 6), (9, 10)]
    assert runs.drop_oldest() == 6
    assert runs.runs == [(9, 10)]
