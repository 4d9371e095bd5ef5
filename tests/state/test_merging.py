"""Merged commits say together what they said one by one."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from k2_dagster.state.merging import DIGEST_MODULUS, merged_commits, merged_ranges
from k2_dagster.verify.tiling import CommittedRange, check_tiling, lanes

NAMES = ("consumed", "rows", "quarantined")


def one_range(start: int, end: int, *, partition: int = 0, epoch: int = 0, digest: int = 0) -> dict[str, Any]:
    quarantined = (end - start) // 3
    return {
        "topic": "t",
        "topic_id": "id",
        "topic_epoch": epoch,
        "partition": partition,
        "start": start,
        "end": end,
        "consumed": end - start,
        "rows": end - start - quarantined,
        "quarantined": quarantined,
        "digest": f"{digest:016x}",
        "quarantine_digest": f"{(digest * 7) % DIGEST_MODULUS:016x}",
    }


# Partition, length, a jump before it (an accepted loss), a new epoch (a log that shrank)
STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(1, 9),
        st.sampled_from([0, 0, 0, 5]),
        st.sampled_from([False, False, False, True]),
        st.integers(0, DIGEST_MODULUS - 1),
    ),
    min_size=1,
    max_size=30,
)


def history(steps: list[tuple[int, int, int, bool, int]]) -> tuple[list[dict[str, Any]], dict[int, list[Any]]]:
    """Ranges in the order of their commits, and the accepted losses by partition."""
    at: dict[int, int] = {}
    epoch = 0
    ranges, losses = [], {0: [], 1: [], 2: []}  # type: ignore[var-annotated]
    for partition, length, jump, shrunk, digest in steps:
        start = at.get(partition, 0)
        if shrunk and start > 3:
            epoch += 1
            losses[partition].append((start, start - 3))
            start -= 3
        elif jump:
            losses[partition].append((start, start + jump))
            start += jump
        ranges.append(one_range(start, start + length, partition=partition, epoch=epoch, digest=digest))
        at[partition] = start + length
    return ranges, losses


def committed(ranges: list[dict[str, Any]], partition: int) -> list[CommittedRange]:
    return [
        CommittedRange("c", **{n: v for n, v in one.items() if n != "topic"})
        for one in ranges
        if one["partition"] == partition
    ]


# A log shrinks and comes back to where it was, and then loses what is behind that: two jumps from one offset
@example([*[(0, 1, 0, False, 0)] * 4, (0, 3, 0, True, 0), (0, 1, 5, False, 0)])
@given(STEPS)
def test_merged_ranges_tile_as_the_single_ones_did(steps: list[tuple[int, int, int, bool, int]]) -> None:
    ranges, losses = history(steps)
    merged = merged_ranges(ranges, tile=True)
    for partition, jumps in losses.items():
        before, after = committed(ranges, partition), committed(merged, partition)
        fence = before[-1].end if before else None
        assert check_tiling(before, 0, jumps, fence).findings() == []
        assert check_tiling(after, 0, jumps, fence).findings() == []
        assert lanes(after, 0, fence) == lanes(before, 0, fence)


@given(STEPS, st.booleans())
def test_nothing_is_lost_in_the_sums(steps: list[tuple[int, int, int, bool, int]], tile: bool) -> None:
    ranges, _ = history(steps)
    merged = merged_ranges(ranges, tile=tile)
    for name in NAMES:
        assert sum(one[name] for one in merged) == sum(one[name] for one in ranges)
    for name in ("digest", "quarantine_digest"):
        assert sum(int(one[name], 16) for one in merged) % DIGEST_MODULUS == (
            sum(int(one[name], 16) for one in ranges) % DIGEST_MODULUS
        )
    if not tile:
        places = [(one["partition"], one["topic_epoch"]) for one in merged]
        assert len(places) == len(set(places))


@given(STEPS, st.integers(0, 29))
def test_merging_in_two_steps_is_merging_in_one(steps: list[tuple[int, int, int, bool, int]], cut: int) -> None:
    ranges, _ = history(steps)
    halves = merged_ranges(ranges[:cut], tile=True) + merged_ranges(ranges[cut:], tile=True)
    assert merged_ranges(halves, tile=True) == merged_ranges(ranges, tile=True)


def commit(name: str, **values: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "id": name,
        "ranges": [],
        "counts": {},
        "days": {},
        "schema_ids": [],
        "commit_seconds": None,
    }
    return {**known, **values}


def test_counts_days_and_schemas_are_added_and_the_last_commit_lends_its_name() -> None:
    found = merged_commits(
        [
            commit(
                "a",
                counts={"rows": 2, "reasons": {"empty": 1}, "newest_kafka_timestamp_ms": 9},
                days={"2026-01-01": 2},
                schema_ids=[3, 1],
                commit_seconds=0.5,
            ),
            commit(
                "b",
                counts={"rows": 3, "reasons": {"empty": 1, "duplicate": 4}, "newest_kafka_timestamp_ms": 7},
                days={"2026-01-01": 1, "2026-01-02": 2},
                schema_ids=[1],
            ),
        ],
        tile=True,
    )
    assert found == {
        "id": "b",
        "ranges": [],
        "counts": {"rows": 5, "reasons": {"empty": 2, "duplicate": 4}, "newest_kafka_timestamp_ms": 9},
        "days": {"2026-01-01": 3, "2026-01-02": 2},
        "schema_ids": [1, 3],
        "commit_seconds": 0.5,
    }


def test_the_single_commits_are_left_as_they_were() -> None:
    first, second = one_range(0, 5), one_range(5, 9)
    merged_ranges([first, second], tile=True)
    assert (first, second) == (one_range(0, 5), one_range(5, 9))
