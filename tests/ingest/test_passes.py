"""The compiled passes over a batch say what the plain form of each says."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.ingest.accounts import add_digests, count_messages
from k2_dagster.ingest.columns import Codes, Known, combine
from k2_dagster.ingest.duplicates import alike
from k2_dagster.ingest.gather import gather, gather_array, gather_wide, nothing, text_column
from k2_dagster.ingest.rules import FIRST_DAY_NUMBER, MICROS_PER_DAY, MS_PER_DAY, days_of
from k2_dagster.ingest.sessions import first_and_last, never_back
from k2_dagster.schemas.digest import row_digests, total

LONGS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.sampled_from(["", "A", "B", None])


def longs(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def codes(values: list[str | None]) -> Codes:
    distinct = list(dict.fromkeys(values))
    return Codes(np.array([distinct.index(one) for one in values], dtype=np.int32), distinct)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1))
def test_a_combination_is_known_by_its_place(rows: list[tuple[str | None, ...]]) -> None:
    columns = [codes([row[at] for row in rows]) for at in range(3)]
    known: Known = {}
    for wanted in (columns, columns[:2], columns):
        places, parts = combine(wanted, known)
        assert [parts[at] for at in places.tolist()] == [row[: len(wanted)] for row in rows]
        assert len(set(parts)) == len(parts) == len({row[: len(wanted)] for row in rows})


@given(st.data())
def test_values_are_gathered_with_their_nulls(data: st.DataObject) -> None:
    values = data.draw(st.lists(st.one_of(st.none(), LONGS), min_size=1))
    places = data.draw(st.lists(st.integers(0, len(values) - 1)))
    for type_ in (pa.int64(), pa.timestamp("us", tz="UTC")):
        array = pa.array([None, *values], pa.int64()).view(type_).slice(1)
        assert gather_array(array, longs(places)).equals(array.take(pa.array(places, pa.int64())))


LISTS = [[[]], [[], []], [["a"], [], ["b", "c"]], [None, ["a"]], [None]]


@pytest.mark.parametrize("values", LISTS)
def test_lists_are_gathered_too(values: list[list[str] | None]) -> None:
    array = pa.array([["x"], *values], pa.list_(pa.string())).slice(1)
    places = longs(list(range(len(values)))[::-1])
    assert gather_array(array, places).equals(array.take(pa.array(places)))


@given(st.lists(TEXTS, min_size=1), st.data())
def test_texts_are_gathered(values: list[str | None], data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(values) - 1)))
    found = text_column(codes(values), longs(places))
    found.validate(full=True)
    assert found.to_pylist() == [values[at] for at in places]


@given(st.lists(LONGS, min_size=1))
def test_a_wide_value_is_the_same_number(values: list[int]) -> None:
    words = gather_wide(longs(values), np.arange(len(values)))
    wide = pa.Array.from_buffers(pa.decimal128(38, 0), len(values), [None, pa.py_buffer(words)])
    assert [int(one) for one in wide.to_pylist()] == values
    assert gather(longs(values), np.arange(len(values))).tolist() == values


def test_columns_without_values_are_shared_and_as_long_as_asked() -> None:
    for count in (0, 1, 2, 3, 1_000):
        array = nothing(pa.string(), count)
        array.validate(full=True)
        assert len(array) == array.null_count == count
    assert nothing(pa.int64(), 900).buffers()[1].address == nothing(pa.int64(), 1_000).buffers()[1].address


ROWS = st.tuples(st.integers(0, 3), LONGS, LONGS, LONGS, LONGS, st.booleans(), st.booleans())


@given(st.lists(ROWS))
def test_counts_and_digests_of_a_partition_are_those_of_its_rows(rows: list[tuple[int, ...]]) -> None:
    columns = [longs([int(row[at]) for row in rows]) for at in range(7)]
    partition, landed, refused = columns[0].astype(np.int32), columns[5].astype(bool), columns[6].astype(bool)
    sums = np.zeros(4, dtype=np.uint64)
    add_digests(sums, landed, np.arange(len(rows)), partition, *columns[1:5])
    counts = count_messages(partition, landed, refused, 4)
    for one in range(4):
        mine = partition == one
        assert f"{int(sums[one]):016x}" == total(row_digests(columns[:5])[mine & landed])
        assert counts[one].tolist() == [mine.sum(), (mine & landed).sum(), (mine & refused).sum()]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-5, 5))), st.lists(st.integers(-5, 5), min_size=3, max_size=3))
def test_record_time_never_goes_back_within_a_partition(rows: list[tuple[int, int]], before: list[int]) -> None:
    partition, times = np.array([one for one, _ in rows], dtype=np.int32), longs([at for _, at in rows])
    found = never_back(partition, times, longs(before))
    for one, newest in enumerate(before):
        mine = partition == one
        assert found[mine].tolist() == np.maximum.accumulate(np.maximum(times[mine], newest)).tolist()


@given(st.lists(st.integers(0, 3), min_size=1))
def test_the_first_row_and_the_last_time_of_each_place(values: list[int]) -> None:
    distinct = sorted(set(values))
    places = longs([distinct.index(one) for one in values])
    firsts, lasts = first_and_last(places, np.arange(len(values)) * 10, len(distinct))
    assert firsts.tolist() == [values.index(one) for one in distinct]
    assert lasts.tolist() == [10 * (len(values) - 1 - values[::-1].index(one)) for one in distinct]


DAY = st.integers(FIRST_DAY_NUMBER - 1, FIRST_DAY_NUMBER + 3)


@given(st.lists(st.tuples(DAY, st.integers(-1, 1), DAY, st.integers(0, MS_PER_DAY - 1))))
def test_a_day_is_kept_from_the_first_to_the_record_s_tomorrow(rows: list[tuple[int, int, int, int]]) -> None:
    micros = longs([day * MICROS_PER_DAY + off for day, off, _, _ in rows])
    record_ms = longs([day * MS_PER_DAY + off for _, _, day, off in rows])
    days, strange = days_of(micros, record_ms)
    assert days.tolist() == (micros // MICROS_PER_DAY).tolist()
    assert strange.tolist() == ((days < FIRST_DAY_NUMBER) | (days > record_ms // MS_PER_DAY + 1)).tolist()


@given(st.lists(st.tuples(LONGS, st.integers(0, 2), st.booleans()), min_size=1), st.data())
def test_the_first_of_a_duplicate_is_always_among_those_alike(
    rows: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    numbers, landed = longs([number for number, _, _ in rows]), np.array([lands for _, _, lands in rows])
    symbols = np.array([symbol for _, symbol, _ in rows], dtype=np.int32)
    duplicates = data.draw(st.lists(st.integers(0, len(rows) - 1)))
    found = alike(numbers, symbols, landed, longs(duplicates))
    for row in duplicates:
        assert found[landed & (numbers == numbers[row]) & (symbols == symbols[row])].all()
    assert not found[~landed].any()
