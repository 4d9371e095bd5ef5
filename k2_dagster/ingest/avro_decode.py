"""Avro messages to Arrow, a batch at a time, so that one bad message costs itself and not its batch (DESIGN D8).

The payloads are decoded as ONE Avro array message: joined, with a count before and an end mark behind. The five bytes
of Confluent framing are themselves Avro (a boolean and a float in front of the record), so nothing is stripped.
"""

import json
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import fastavro
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyruhvro

from k2_dagster.ingest import avro_layout
from k2_dagster.ingest.refusal import Refusal

FRAME_BYTES = 5
# Messages decoded in one call: enough to make the call's cost vanish, small enough to stay in the processor's cache.
WINDOW_ROWS = 32_768
# Below this, a failing window is decoded message by message.
SMALLEST_WINDOW_ROWS = 16

MAX_DETAIL_CHARACTERS = 200
# What the row decoder and Arrow raise on damaged bytes.
_DECODE_ERRORS = (ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError, pa.ArrowException)
_FRAME_FIELDS = [{"name": "k2_magic", "type": "boolean"}, {"name": "k2_schema_id", "type": "float"}]


@dataclass(frozen=True, slots=True)
class Decoded:
    """`rows` says which message each entry of `records` (a struct array in the writer's layout) came from."""

    records: pa.StructArray
    rows: npt.NDArray[np.int64]
    refusals: list[Refusal]


class AvroDecoder:
    """Decodes the messages of one schema id. Raises ValueError for a schema that cannot be read at all."""

    def __init__(self, schema_text: str) -> None:
        self.layout = avro_layout.parse(schema_text)
        record = avro_layout.bare(json.loads(schema_text))
        self._single = fastavro.parse_schema(record)
        framed = {**record, "fields": [*_FRAME_FIELDS, *record["fields"]]}
        items = {"name": "rows", "type": {"type": "array", "items": framed}}
        self._many = json.dumps({"type": "record", "name": "K2Batch", "fields": [items]})

    def decode(self, values: pa.BinaryArray) -> Decoded:
        """Decode framed messages (no nulls). Messages that do not decode to exactly their bytes are refused."""
        offsets = np.frombuffer(values.buffers()[1], dtype=np.int32)[values.offset : values.offset + len(values) + 1]
        data = memoryview(values.buffers()[2] or b"")
        pieces: list[tuple[npt.NDArray[np.int64], pa.Array]] = []
        refusals: list[Refusal] = []
        window = WINDOW_ROWS if self.layout.fast else 0
        low = 0
        while low < len(values):
            high = min(len(values), low + max(window, SMALLEST_WINDOW_ROWS))
            good = self._window(data, offsets[low : high + 1]) if window else None
            if good is None and window > SMALLEST_WINDOW_ROWS:
                window = max(SMALLEST_WINDOW_ROWS, window // 4)
                continue
            if good is None:
                self._one_by_one(values, range(low, high), pieces, refusals)
                low = high
                continue
            records, matching = good
            pieces.append((np.arange(low, low + matching, dtype=np.int64), records.slice(0, matching)))
            low += matching
            if low < high:
                self._one_by_one(values, range(low, low + 1), pieces, refusals)
                low += 1
                window = max(SMALLEST_WINDOW_ROWS, window // 4)
            else:
                window = min(WINDOW_ROWS, window * 2)
        return self._joined(pieces, refusals)

    def _window(self, data: memoryview, offsets: npt.NDArray[np.int32]) -> tuple[pa.Array, int] | None:
        """The records of one window and how many of them, from the first, are proven; None if decoding failed."""
        count = len(offsets) - 1
        message = b"".join((_varint(count), data[offsets[0] : offsets[-1]], b"\0"))
        try:
            batch = pyruhvro.deserialize_array([message], self._many)
            framed = batch.column(0).flatten()
            framed.validate(full=True)
        except (ValueError, pa.ArrowInvalid):
            return None
        if len(framed) != count:
            return None
        magic, schema_id, *fields = framed.flatten()
        records = pa.StructArray.from_arrays(fields, names=[name for name, _ in self.layout.children])
        lengths = avro_layout.encoded_lengths(self.layout, records) + FRAME_BYTES
        proven = lengths == np.diff(offsets)
        # a message that is cut short can add up with a byte of its successor, whose frame is then not where it belongs
        bits = schema_id.to_numpy(zero_copy_only=False).view(np.int32)
        framed_well = ~magic.to_numpy(zero_copy_only=False) & (bits == bits[0])
        proven[:-1] &= framed_well[1:]
        wrong = np.flatnonzero(~proven)
        return records, int(wrong[0]) if len(wrong) else count

    def _one_by_one(
        self,
        values: pa.BinaryArray,
        rows: range,
        pieces: list[tuple[npt.NDArray[np.int64], pa.Array]],
        refusals: list[Refusal],
    ) -> None:
        decoded: list[Any] = []
        taken: list[int] = []
        for row in rows:
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
        if taken:
            pieces.append((np.array(taken, dtype=np.int64), pa.array(decoded, self.layout.arrow)))

    def _joined(self, pieces: list[tuple[npt.NDArray[np.int64], pa.Array]], refusals: list[Refusal]) -> Decoded:
        if not pieces:
            return Decoded(pa.array([], self.layout.arrow), np.zeros(0, dtype=np.int64), refusals)
        if len(pieces) == 1:
            return Decoded(pieces[0][1], pieces[0][0], refusals)
        records = pa.concat_arrays([_typed(records, self.layout.arrow) for _, records in pieces])
        return Decoded(records, np.concatenate([rows for rows, _ in pieces]), refusals)


def describe(error: Exception) -> str:
    """What a decoder's exception says, in one bounded line."""
    text = "the bytes end inside the record" if isinstance(error, EOFError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:MAX_DETAIL_CHARACTERS]


def _typed(records: pa.Array, wanted: pa.DataType) -> pa.Array:
    return records if records.type == wanted else records.cast(wanted)


def _varint(count: int) -> bytes:
    value = count << 1
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
