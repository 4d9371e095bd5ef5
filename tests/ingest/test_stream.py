"""How a backlog is cut into batches."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.ingest.stream import LEAST_BATCH_ROWS, LONG_BACKLOG_BATCHES, SHORT_BACKLOG_BATCHES, batch_sizes

BATCH_ROWS = 320_000
LONG = LONG_BACKLOG_BATCHES * BATCH_ROWS


def sizes(backlog: int, batch_rows: int = BATCH_ROWS) -> list[int]:
    """Of the batches until the backlog is done."""
    totals = itertools.accumulate(batch_sizes(backlog, batch_rows))
    count = 1 + sum(1 for _ in itertools.takewhile(lambda total: total < backlog, totals))
    return list(itertools.islice(batch_sizes(backlog, batch_rows), count))


@given(st.integers(LONG, 100 * BATCH_ROWS))
def test_a_long_backlog_begins_and_ends_with_smaller_batches(backlog: int) -> None:
    found = sizes(backlog)
    largest = found.index(BATCH_ROWS)
    assert found[:largest] == [BATCH_ROWS // 4, BATCH_ROWS // 2]
    assert found[largest:] == sorted(found[largest:], reverse=True)
    assert found[-1] == BATCH_ROWS // 4
    assert found.count(BATCH_ROWS) >= len(found) - 6, "others are few: small commits make small files"


@given(st.integers(0, LONG - 1))
def test_a_short_backlog_has_smaller_batches_of_one_size(backlog: int) -> None:
    (size,) = set(sizes(backlog))
    assert LEAST_BATCH_ROWS <= size <= BATCH_ROWS
    assert size == BATCH_ROWS or backlog // SHORT_BACKLOG_BATCHES <= size


@given(st.integers(0, 10**7), st.integers(1, LEAST_BATCH_ROWS))
def test_no_batch_is_larger_than_the_setting_and_none_is_empty(backlog: int, batch_rows: int) -> None:
    found = list(itertools.islice(batch_sizes(backlog, batch_rows), 50))
    assert min(found) >= 1
    assert max(found) <= batch_rows
