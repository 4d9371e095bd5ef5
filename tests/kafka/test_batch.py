"""A batch in the making becomes a batch."""

import weakref

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.kafka.batch import GATHERINGS_KEPT, Gathering, Gatherings, Payloads, RawBatch

ROOM_BYTES = 4


def test_nothing_gathered_is_an_empty_batch_that_carries_positions() -> None:
    batch = Gathering(0).batch("t", {0: 7})
    assert len(batch) == 0
    assert batch.partition.dtype == np.int32
    assert batch.offset.dtype == np.int64
    assert batch.values.type == batch.keys.type == pa.binary()
    assert batch.positions == {0: 7}


@given(st.lists(st.lists(st.none() | st.binary(max_size=9), max_size=5), max_size=6), st.booleans())
def test_payloads_are_what_was_appended(pieces: list[list[bytes | None]], sliced: bool) -> None:
    everything = [value for piece in pieces for value in piece]
    payloads = Payloads(len(everything), ROOM_BYTES)
    row = 0
    for piece in pieces:
        values = pa.array([b"before", *piece], pa.binary()).slice(1) if sliced else pa.array(piece, pa.binary())
        payloads.append(row, values)
        row += len(piece)
    found = payloads.array(row)
    found.validate(full=True)
    assert found.to_pylist() == everything


def test_a_batch_is_what_was_gathered() -> None:
    gathering = Gathering(4)
    gathering.values.append(0, pa.array([b"1", b"2"], pa.binary()))
    gathering.keys.append(0, pa.array([None, b"k"], pa.binary()))
    gathering.rows = 2
    batch = gathering.batch("t", {})
    assert batch.values.to_pylist() == [b"1", b"2"]
    assert batch.keys.to_pylist() == [None, b"k"]
    assert gathering.payload_bytes == 3


def gathered(gathering: Gathering, number: int) -> RawBatch:
    """A batch of one message that has the number everywhere."""
    text = pa.array([str(number).encode()], pa.binary())
    gathering.keys.append(0, text)
    gathering.values.append(0, text)
    gathering.partition[0] = gathering.offset[0] = gathering.timestamp_ms[0] = number
    gathering.headers[0] = [("number", None)]
    gathering.rows = 1
    return gathering.batch("t", {})


def test_no_batch_changes_under_who_holds_it() -> None:
    gatherings = Gatherings(2)
    held = [gathered(gatherings.take(2), number) for number in range(5)]
    for number, batch in enumerate(held):
        columns = (batch.partition, batch.offset, batch.timestamp_ms)
        assert [one.tolist() for one in columns] == [[number]] * 3
        assert batch.keys.to_pylist() == batch.values.to_pylist() == [str(number).encode()]
        assert batch.headers == {0: [("number", None)]}


@pytest.mark.parametrize("name", ["keys", "values", "partition", "offset", "timestamp_ms"])
def test_memory_is_used_again_when_nobody_holds_a_column_of_it(name: str) -> None:
    gatherings = Gatherings(2)
    first = gatherings.take(1)
    batch = gathered(first, 1)
    column = getattr(batch, name)[0:1]
    del batch
    assert gatherings.take(2) is not first
    del column
    again = gatherings.take(1)
    assert again is first
    assert (again.rows, again.headers) == (0, {})
    assert gatherings.take(3) is not first, "too small"


def test_few_are_kept_and_they_can_be_let_go() -> None:
    gatherings = Gatherings(0)
    made = [weakref.ref(one.offset) for one in (gatherings.take(number) for number in range(1, 6))]
    assert [one() is not None for one in made] == [False] * (5 - GATHERINGS_KEPT) + [True] * GATHERINGS_KEPT
    gatherings.clear()
    assert [one() for one in made] == [None] * 5
