"""Ranges of commits tile, or it is said where they do not."""

from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.verify.tiling import CommittedRange, check_tiling, lanes


def committed(start: int, end: int, epoch: int = 0) -> CommittedRange:
    return CommittedRange("c", "t", epoch, 0, start, end, end - start, end - start, 0, "0" * 16, "0" * 16)


def faults(
    *ranges: CommittedRange, baseline: int | None = 0, losses: tuple[tuple[int, int], ...] = (), fence: int | None
) -> dict[str, int]:
    return {one.fault: one.count for one in check_tiling(ranges, baseline, losses, fence).findings()}


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(0, 100))
def test_neighbouring_ranges_tile(lengths: list[int], baseline: int) -> None:
    ranges, at = [], baseline
    for length in lengths:
        ranges.append(committed(at, at + length))
        at += length
    assert faults(*ranges, baseline=baseline, fence=at) == {}


@given(st.lists(st.integers(1, 50), min_size=3, max_size=20), st.data())
def test_a_range_that_is_gone_is_a_hole_of_its_length(lengths: list[int], data: st.DataObject) -> None:
    ranges, at = [], 0
    for length in lengths:
        ranges.append(committed(at, at + length))
        at += length
    gone = ranges.pop(data.draw(st.integers(0, len(ranges) - 2)))
    assert faults(*ranges, fence=at) == {"hole": gone.end - gone.start}
    assert faults(*ranges, fence=at, losses=((gone.start, gone.end),)) == {}


def test_an_overlap_is_counted_once_and_opens_no_hole() -> None:
    assert faults(committed(0, 100), committed(50, 80), committed(100, 120), fence=120) == {"overlap": 30}


def test_the_fence_must_be_where_the_commits_end() -> None:
    assert faults(committed(0, 10), fence=12) == {"fence": 1}
    assert faults(committed(0, 10), fence=None) == {"fence": 1}
    assert faults(fence=5) == {"fence": 1}
    assert faults(fence=None) == {}
    assert faults(fence=0) == {}


def test_commits_without_a_baseline_are_reported() -> None:
    assert faults(committed(3, 10), baseline=None, fence=10) == {"fence": 1}


def test_a_log_that_shrank_begins_another_lane() -> None:
    ranges = [committed(0, 60), committed(60, 100), committed(80, 130, epoch=1)]
    assert faults(*ranges, losses=((100, 80),), fence=130) == {}
    assert faults(*ranges, fence=130) == {"overlap": 20}
    old, new = lanes(ranges, 0, 130)
    assert (old.begin, old.end, old.readable_below) == (0, 100, 80)
    assert (new.begin, new.end, new.readable_below) == (80, 130, 130)


def test_lanes_reach_from_the_baseline_to_the_fence() -> None:
    (only,) = lanes([committed(5, 10)], 2, 14)
    assert (only.begin, only.end) == (2, 14)
    assert lanes([], 2, None) == []
