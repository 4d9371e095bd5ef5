"""Chunks become one batch."""

import numpy as np
import pyarrow as pa

from k2_dagster.kafka.batch import NOTHING, Chunk, Headers, join


def chunk(offsets: list[int], headers: dict[int, Headers]) -> Chunk:
    size = len(offsets)
    return Chunk(
        np.zeros(size, np.int32),
        np.array(offsets, np.int64),
        np.array(offsets, np.int64) * 10,
        pa.array([None] * size, pa.binary()),
        pa.array([str(offset).encode() for offset in offsets], pa.binary()),
        headers,
        (),
    )


def test_nothing_joins_to_an_empty_batch_that_carries_positions() -> None:
    batch = join("t", [], {0: 7})
    assert len(batch) == 0
    assert batch.partition.dtype == np.int32
    assert batch.offset.dtype == np.int64
    assert batch.values.type == batch.keys.type == pa.binary()
    assert batch.positions == {0: 7}


def test_headers_keep_to_their_rows() -> None:
    batch = join("t", [chunk([1, 2], {1: [("a", b"1")]}), NOTHING, chunk([5], {0: [("b", None)]})], {0: 6})
    assert batch.values.to_pylist() == [b"1", b"2", b"5"]
    assert batch.headers == {1: [("a", b"1")], 2: [("b", None)]}
    assert batch.timestamp_ms.tolist() == [10, 20, 50]
