"""Avro messages to Arrow, a batch at a time, so that one bad message costs itself and not its batch (DESIGN D8).

A compiled loop reads the batch and proves of each message that it is exactly its bytes (`avro_kernel`). What it cannot
prove is read alone, by a library that says what is wrong with it.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import fastavro
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest import avro_layout
from k2_dagster.ingest.avro_columns import Program, read
from k2_dagster.ingest.refusal import Refusal

FRAME_BYTES = 5
MAX_DETAIL_CHARACTERS = 200
# What the row decoder and Arrow raise on damaged bytes.
_DECODE_ERRORS = (ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class Decoded:
    """`rows` says which message each entry of `records` (a struct array in the writer's layout) came from."""

    records: pa.StructArray
    rows: npt.NDArray[np.int64]
    refusals: list[Refusal]


class AvroDecoder:
    """Decodes the messages of one schema id. Raises ValueError for a schema that cannot be read at all.

    Fields named in `coded` come as dictionary arrays where all messages could be read at once.
    """

    def __init__(self, schema_text: str, coded: Collection[str] = ()) -> None:
        self.layout = avro_layout.parse(schema_text)
        self._single = fastavro.parse_schema(avro_layout.bare(json.loads(schema_text)))
        try:
            self._program: Program | None = Program(self.layout, coded)
        except ValueError:
            self._program = None  # foreign topics only: message by message

    def decode(self, values: pa.BinaryArray) -> Decoded:
        """Decode framed messages (no nulls). Messages that do not decode to exactly their bytes are refused."""
        if not len(values):
            return Decoded(pa.array([], self.layout.arrow), np.zeros(0, dtype=np.int64), [])
        if self._program is None:
            return self._one_by_one(values, np.arange(len(values)))
        offsets = np.frombuffer(values.buffers()[1], dtype=np.int32)[values.offset : values.offset + len(values) + 1]
        data = np.frombuffer(values.buffers()[2] or b"", dtype=np.uint8)
        records, good = read(self._program, data, offsets, FRAME_BYTES)
        if good.all():
            return Decoded(records, np.arange(len(values)), [])
        return self._merged(records, np.flatnonzero(good), self._one_by_one(values, np.flatnonzero(~good)))

    def _merged(self, records: pa.StructArray, rows: npt.NDArray[np.int64], doubted: Decoded) -> Decoded:
        """The records of both, in the order of their messages."""
        if not len(doubted.rows):
            return Decoded(records, rows, doubted.refusals)
        both = np.concatenate([rows, doubted.rows])
        order = np.argsort(both, kind="stable")
        joined = pa.concat_arrays([records.cast(self.layout.arrow), doubted.records])
        return Decoded(joined.take(pa.array(order)), both[order], doubted.refusals)

    def _one_by_one(self, values: pa.BinaryArray, rows: npt.NDArray[np.int64]) -> Decoded:
        decoded: list[Any] = []
        taken: list[int] = []
        refusals: list[Refusal] = []
        for row in rows.tolist():
            body = values[row].as_py()[FRAME_BYTES:]
            stream = BytesIO(body)
            try:
                record = fastavro.schemaless_reader(stream, self._single, None)
                # a value that Arrow cannot hold (a long beyond 64 bits) is refused here, for this row alone
                pa.array([record], self.layout.arrow)
            except _DECODE_ERRORS as error:
                refusals.append(Refusal(row, "undecodable", describe(error)))
                continue
            if stream.tell() != len(body):
                detail = f"the record ends at byte {stream.tell()} of {len(body)}"
                refusals.append(Refusal(row, "trailing_bytes", detail))
                continue
            decoded.append(record)
            taken.append(row)
        return Decoded(pa.array(decoded, self.layout.arrow), np.array(taken, dtype=np.int64), refusals)


def describe(error: Exception) -> str:
    """What a decoder's exception says, in one bounded line."""
    text = "the bytes end inside the record" if isinstance(error, EOFError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:MAX_DETAIL_CHARACTERS]
