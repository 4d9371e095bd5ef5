"""How large the first batches of a drain call are."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.ingest.stream import LONG_BACKLOG_BATCHES, first_batches

BATCH_ROWS = 1_000


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**5)), max_size=8))
def test_only_a_long_backlog_begins_with_smaller_batches(partitions: list[tuple[int, int]]) -> None:
    starts = {at: start for at, (start, _) in enumerate(partitions)}
    position: Any = SimpleNamespace(starts=starts, ends={at: sum(one) for at, one in enumerate(partitions)})
    sizes = first_batches(position, BATCH_ROWS)
    assert bool(sizes) == (sum(lag for _, lag in partitions) >= LONG_BACKLOG_BATCHES * BATCH_ROWS)
    assert sizes == sorted(sizes)
    assert all(0 < size < BATCH_ROWS for size in sizes)
