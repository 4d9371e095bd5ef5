"""Which of the numbers that were asked for have come: held to sets of numbers."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.feeds.recovery.channel import identified
from k2_dagster.feeds.recovery.covering import count, left, other, within
from k2_dagster.feeds.recovery.source import MissingRange
from k2_dagster.schemas.profiles import Domain
from tests.feeds.recovery.faking import tick_rows

NUMBERS = st.lists(st.integers(0, 60), max_size=60)
BOUNDS = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair)))
CHUNK = MissingRange("x", "control", "tops", "s", "", "c", 10, 40)


def members(ranges: list[tuple[int, int]]) -> list[int]:
    return [number for first, last in ranges for number in range(first, last + 1)]


@given(NUMBERS, BOUNDS)
def test_single_numbers(numbers: list[int], bounds: tuple[int, int]) -> None:
    batch = within(tick_rows("x", numbers), *bounds)
    inside = sorted({one for one in numbers if bounds[0] <= one <= bounds[1]})
    assert batch.column("sequence").to_pylist() == inside
    gone = left(*bounds, [batch], Domain.DENSE)
    assert members(gone) == sorted(set(range(bounds[0], bounds[1] + 1)) - set(inside))
    assert count(gone) + len(inside) == bounds[1] - bounds[0] + 1
    assert members(other(*bounds, gone)) == inside


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=12), BOUNDS, st.booleans())
def test_ranges_and_links(spans: list[tuple[int, int]], bounds: tuple[int, int], two: bool) -> None:
    """A row has everything behind its previous number up to its own."""
    rows = [{"sequence": start + more, "previous_sequence": start - 1} for start, more in spans]
    schema = pa.schema([("sequence", pa.int64()), ("previous_sequence", pa.int64())])
    cut = len(rows) // 2 if two else 0
    batches = [pa.RecordBatch.from_pylist(part, schema=schema) for part in (rows[:cut], rows[cut:])]
    have = {number for start, more in spans for number in range(start, start + more + 1)}
    for domain in (Domain.RANGE, Domain.LINKED):
        assert members(left(*bounds, batches, domain)) == sorted(set(range(bounds[0], bounds[1] + 1)) - have)


@given(st.lists(st.sampled_from("ABC"), min_size=1, max_size=31))
def test_rows_of_a_channel_get_a_pair_that_is_dense_by_symbol_and_the_same_each_time(symbols: list[str]) -> None:
    parts = [tick_rows("x", [10 + place], symbol) for place, symbol in enumerate(symbols)]
    rows = pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
    once, again = identified(rows, CHUNK), identified(rows, CHUNK)
    assert once.equals(again)
    for symbol in set(symbols):
        numbers = [row["publisher_sequence"] for row in once.to_pylist() if row["symbol"] == symbol]
        assert numbers == list(range(1, len(numbers) + 1))
    (session,) = set(once.column("publisher_session").to_pylist())
    assert len(session) <= 64
    elsewhere = MissingRange("x", "control", "tops", "s", "", "c", 11, 40)
    assert identified(rows, elsewhere).column("publisher_session")[0].as_py() != session
