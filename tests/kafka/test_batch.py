"""A batch in the making becomes a batch."""

import weakref

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.kafka.batch import SPARES, Gathering, Payloads, Spares

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
    payloads = Payloads(len(everything), np.empty(ROOM_BYTES, np.uint8))
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


def test_memory_is_used_again_when_nobody_holds_a_batch_of_it() -> None:
    spares = Spares()
    first = spares.take(1_000)
    place = first.ctypes.data
    del first
    gathering = Gathering(1, spares.take(1_000))
    assert gathering.values.data.ctypes.data == place
    gathering.values.append(0, pa.array([b"held"], pa.binary()))
    gathering.rows = 1
    held = gathering.batch("t", {}).values
    del gathering
    others = [spares.take(1_000) for _ in range(SPARES + 1)]
    assert place not in {one.ctypes.data for one in others}
    for one in others:
        one[:] = 255
    assert held.to_pylist() == [b"held"]
    assert len(spares.take(2_000)) == 2_000, "what is there is too small"


def test_spares_are_few_and_can_be_let_go() -> None:
    spares = Spares()
    held = [spares.take(10) for _ in range(SPARES + 3)]
    assert len({one.ctypes.data for one in held}) == SPARES + 3
    places = {one.ctypes.data for one in held[-SPARES:]}
    del held
    spare = spares.take(10)
    assert spare.ctypes.data in places
    kept = weakref.ref(spare)
    del spare
    spares.clear()
    assert kept() is None
