"""How large the first batches of a drain call are."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.ingest.stream import LEAST_BATCH_ROWS, LONG_BACKLOG_BATCHES, SHORT_BACKLOG_BATCHES, batch_sizes

BATCH_ROWS = 250_000


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**6)), max_size=8))
def test_batches_are_smaller_at_the_start_of_a_long_backlog_and_all_through_a_short_one(
    partitions: list[tuple[int, int]],
) -> None:
    starts = {at: start for at, (start, _) in enumerate(partitions)}
    position: Any = SimpleNamespace(starts=starts, ends={at: sum(one) for at, one in enumerate(partitions)})
    backlog = sum(lag for _, lag in partitions)
    first, rest = batch_sizes(position, BATCH_ROWS)
    assert bool(first) == (backlog >= LONG_BACKLOG_BATCHES * BATCH_ROWS)
    assert first == sorted(first)
    assert all(0 < size < BATCH_ROWS for size in first)
    assert LEAST_BATCH_ROWS <= rest <= BATCH_ROWS
    assert rest == BATCH_ROWS or backlog // SHORT_BACKLOG_BATCHES <= rest


@given(st.integers(1, LEAST_BATCH_ROWS))
def test_no_batch_is_larger_than_the_setting(batch_rows: int) -> None:
    position: Any = SimpleNamespace(starts={0: 0}, ends={0: 2 * batch_rows})
    assert batch_sizes(position, batch_rows) == ([], batch_rows)
