"""Sets of offsets, sums over ranges and bounded findings."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.verify.compare import Int64s, Sums, Tally, difference
from k2_dagster.verify.report import MAX_EXAMPLES

OFFSETS = st.lists(st.integers(0, 30), max_size=30).map(sorted)


def array(values: list[int]) -> Int64s:
    return np.array(values, dtype=np.int64)


@given(messages=OFFSETS, data=OFFSETS, quarantine=OFFSETS, retained_from=st.integers(0, 30))
def test_difference_is_set_arithmetic(
    messages: list[int], data: list[int], quarantine: list[int], retained_from: int
) -> None:
    kept = sorted({one for one in messages if one >= retained_from})
    found = difference(array(kept), array(data), array(quarantine), retained_from)
    rows = {one for one in data + quarantine if one >= retained_from}
    assert found.missing.tolist() == sorted(set(kept) - rows)
    assert found.extra.tolist() == sorted(rows - set(kept))
    assert found.in_both.tolist() == sorted(set(data) & set(quarantine))
    surplus = [offset for table in (data, quarantine) for offset, count in Counter(table).items() if count > 1]
    assert set(found.twice.tolist()) == set(surplus)
    assert len(found.twice) == len(data) - len(set(data)) + len(quarantine) - len(set(quarantine))


@given(
    rows=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2**64 - 1)), max_size=40).map(sorted),
    ranges=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted), min_size=1, max_size=5),
    cut=st.integers(0, 40),
)
def test_sums_over_ranges_do_not_depend_on_the_pieces(
    rows: list[tuple[int, int]], ranges: list[list[int]], cut: int
) -> None:
    sums = Sums(array([low for low, _ in ranges]), array([high for _, high in ranges]))
    for piece in (rows[:cut], rows[cut:]):
        sums.add(array([offset for offset, _ in piece]), np.array([digest for _, digest in piece], dtype=np.uint64))
    for at, (low, high) in enumerate(ranges):
        inside = [digest for offset, digest in rows if low <= offset < high]
        assert sums.counts[at] == len(inside)
        assert int(sums.digests[at]) == sum(inside) % 2**64


def test_a_tally_counts_all_and_shows_some() -> None:
    tally = Tally()
    tally.add("missing", "here", np.arange(15))
    tally.add("missing", "here", np.arange(15, 100))
    tally.add("extra", "there", [])
    tally.add("hole", "there", [7], 12)
    missing, hole = tally.findings()
    assert (missing.count, missing.examples) == (100, tuple(range(MAX_EXAMPLES)))
    assert (hole.fault, hole.count, hole.examples) == ("hole", 12, (7,))
