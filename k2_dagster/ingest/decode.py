"""From a raw batch to wire-form columns: framing, schema by id, decoding, projection. Refusals carry their reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.errors import RegistryUnavailable, SchemaUnknown
from k2_dagster.ingest.avro_decode import FRAME_BYTES, AvroDecoder
from k2_dagster.ingest.columns import coded_texts
from k2_dagster.ingest.fixed import fixed
from k2_dagster.ingest.json_decode import JsonDecoder
from k2_dagster.ingest.project import Projection, SchemaMismatch, plan
from k2_dagster.ingest.refusal import Refusal
from k2_dagster.ingest.refused import as_refusals, refused_by_feed
from k2_dagster.kafka.batch import RawBatch
from k2_dagster.kafka.registry import RegisteredSchema
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.declaration import Dataset
from k2_dagster.schemas.refused import Refused

NO_SCHEMA = -1
# A detail says what is wrong with a schema; libraries quote the whole of it.
DETAIL_CHARACTERS = 500
# Decoders kept; a topic has a handful of schema versions, and a hostile one cannot make this grow.
MAX_DECODERS = 256


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """`wire` has one row per entry of `rows` (places in the raw batch, ascending), with texts as dictionary arrays
    where that is how they were read; `schema_ids` is per raw message.
    `refused` are the rows that a feed handler refused, with what their headers say; they are among the refusals."""

    wire: pa.RecordBatch
    rows: npt.NDArray[np.int64]
    schema_ids: npt.NDArray[np.int64]
    refusals: list[Refusal]
    refused: Mapping[int, Refused] = field(default_factory=dict)


@dataclass(slots=True)
class _Reading:
    """How to read one schema id; without a decoder, why its messages are refused."""

    decoder: AvroDecoder | JsonDecoder | None = None
    projection: Projection | None = None
    mismatch: str = ""


@dataclass
class Decoder:
    """Decodes batches of one dataset. `lookup` gives the registered schema of an id, or raises a transient error."""

    dataset: Dataset
    lookup: Callable[[int], RegisteredSchema]
    refused_ids: frozenset[int] = frozenset()
    _readings: dict[int, _Reading] = field(default_factory=dict)

    def decode(self, raw: RawBatch) -> DecodedBatch:
        """Raises SchemaUnknown or RegistryUnavailable, naming the place of the first message, when a schema cannot be
        looked up; nothing is refused."""
        schema_ids, refusals = frame(raw.values)
        by_feed = refused_by_feed(raw.headers) if raw.headers else {}
        if by_feed:
            schema_ids[list(by_feed)] = NO_SCHEMA
            refusals = [one for one in refusals if one.row not in by_feed] + as_refusals(by_feed)
        batches: list[pa.RecordBatch] = []
        rows: list[npt.NDArray[np.int64]] = []
        for schema_id in distinct_ids(schema_ids):
            at = np.flatnonzero(schema_ids == schema_id)
            try:
                self._reading(schema_id)
            except (SchemaUnknown, RegistryUnavailable) as error:
                raise _placed(error, raw, int(at[0])) from error
            wire, kept, refused = self._decode_one(schema_id, raw.values, at)
            refusals += refused
            if len(kept):
                batches.append(wire)
                rows.append(kept)
        joined = self._joined(batches, rows, schema_ids, refusals)
        return replace(joined, refused=by_feed) if by_feed else joined

    def _decode_one(
        self, schema_id: int, values: pa.BinaryArray, at: npt.NDArray[np.int64]
    ) -> tuple[pa.RecordBatch, npt.NDArray[np.int64], list[Refusal]]:
        reading = self._reading(schema_id)
        if reading.decoder is None or reading.projection is None:
            reason = "schema_unknown" if schema_id in self.refused_ids else "schema_not_for_topic"
            detail = f"schema {schema_id}: {reading.mismatch}"
            return _empty(self.dataset), at[:0], [Refusal(int(row), reason, detail) for row in at]
        selected = values if len(at) == len(values) else values.take(pa.array(at))
        decoded = reading.decoder.decode(selected)
        places = at[decoded.rows]
        refusals = [Refusal(int(at[one.row]), one.reason, one.detail) for one in decoded.refusals]
        wire, unfit = reading.projection.apply(decoded.records, places)
        if unfit:
            refusals += _first_of_each(unfit)
            keep = np.flatnonzero(~np.isin(places, [one.row for one in unfit]))
            wire, places = wire.take(pa.array(keep)), places[keep]
        return wire, places, refusals

    def _reading(self, schema_id: int) -> _Reading:
        found = self._readings.get(schema_id)
        if found is None:
            if len(self._readings) >= MAX_DECODERS:
                self._readings.clear()
            found = self._readings[schema_id] = self._make(schema_id)
        return found

    def _make(self, schema_id: int) -> _Reading:
        if schema_id in self.refused_ids:
            return _Reading(mismatch="an operator has refused this id, which the registry does not know")
        registered = self.lookup(schema_id)
        if registered.kind not in _DECODERS:
            return _Reading(mismatch=f"type {registered.kind}; valid: {', '.join(_DECODERS)}")
        try:
            decoder = _DECODERS[registered.kind](registered.text, coded_texts(self.dataset))
            return _Reading(decoder, plan(self.dataset, decoder.layout))
        except SchemaMismatch as error:
            return _Reading(mismatch=str(error))
        except Exception as error:  # noqa: BLE001  (a registered text may be anything, and three libraries read it)
            return _Reading(mismatch=f"no schema that can be read: {type(error).__name__}: {error}"[:DETAIL_CHARACTERS])

    def _joined(
        self,
        batches: list[pa.RecordBatch],
        rows: list[npt.NDArray[np.int64]],
        schema_ids: npt.NDArray[np.int64],
        refusals: list[Refusal],
    ) -> DecodedBatch:
        refusals.sort(key=lambda one: one.row)
        if not batches:
            return DecodedBatch(_empty(self.dataset), np.zeros(0, dtype=np.int64), schema_ids, refusals)
        if len(batches) == 1:
            return DecodedBatch(_typed(batches[0], self.dataset, keep_codes=True), rows[0], schema_ids, refusals)
        places = np.concatenate(rows)
        order = np.argsort(places, kind="stable")
        table = pa.Table.from_batches([_typed(one, self.dataset) for one in batches]).combine_chunks()
        wire = table.take(pa.array(order)).combine_chunks().to_batches()[0]
        return DecodedBatch(wire, places[order], schema_ids, refusals)


_DECODERS: dict[str, type[AvroDecoder] | type[JsonDecoder]] = {"AVRO": AvroDecoder, "JSON": JsonDecoder}


def _placed(error: SchemaUnknown | RegistryUnavailable, raw: RawBatch, row: int) -> SchemaUnknown | RegistryUnavailable:
    """The error with the place of the message that it holds up."""
    partition, offset = int(raw.partition[row]), int(raw.offset[row])
    return type(error)(
        f"{raw.topic} partition {partition} offset {offset}: {error.message}",
        advice=error.advice,
        **{**error.fields, "topic": raw.topic, "partition": partition, "offset": offset},
    )


def frame(values: pa.BinaryArray) -> tuple[npt.NDArray[np.int64], list[Refusal]]:
    """Schema id per message (NO_SCHEMA where there is none), and the messages that are not framed."""
    count = len(values)
    schema_ids = np.full(count, NO_SCHEMA, dtype=np.int64)
    if count == 0:
        return schema_ids, []
    offsets = np.frombuffer(values.buffers()[1], dtype=np.int32)[values.offset : values.offset + count + 1]
    data = np.frombuffer(values.buffers()[2] or b"", dtype=np.uint8)
    missing = values.is_null().to_numpy(zero_copy_only=False) if values.null_count else np.zeros(count, dtype=bool)
    _read_ids(offsets, data, fixed(missing), schema_ids)
    refusals = [
        Refusal(int(row), "empty", "the message has no value")
        if missing[row]
        else Refusal(int(row), "not_framed", _opening(values[int(row)].as_py()))
        for row in np.flatnonzero(schema_ids == NO_SCHEMA)
    ]
    return schema_ids, refusals


def distinct_ids(schema_ids: npt.NDArray[np.int64]) -> list[int]:
    """The schema ids of a batch in ascending order, without NO_SCHEMA. One id, as nearly always, needs no sorting."""
    if len(schema_ids) and schema_ids[0] != NO_SCHEMA and bool((schema_ids == schema_ids[0]).all()):
        return [int(schema_ids[0])]
    return [one for one in np.unique(schema_ids).tolist() if one != NO_SCHEMA]


@numba.njit(cache=True, nogil=True)
def _read_ids(offsets, data, missing, schema_ids):  # type: ignore[no-untyped-def]
    for row in range(len(schema_ids)):
        start = offsets[row]
        if missing[row] or offsets[row + 1] - start < FRAME_BYTES or data[start] != 0:
            continue
        found = np.int64(0)
        for place in range(start + 1, start + FRAME_BYTES):
            found = (found << 8) | np.int64(data[place])
        schema_ids[row] = found


def _opening(value: bytes) -> str:
    return (
        f"{len(value)} bytes beginning {value[:FRAME_BYTES].hex() or 'nowhere'}; valid: 00 and a schema id of 4 bytes"
    )


def _first_of_each(refusals: list[Refusal]) -> list[Refusal]:
    seen: dict[int, Refusal] = {}
    for one in refusals:
        seen.setdefault(one.row, one)
    return list(seen.values())


def _typed(batch: pa.RecordBatch, dataset: Dataset, *, keep_codes: bool = False) -> pa.RecordBatch:
    schema = wire_schema(dataset)
    arrays = [
        array
        if array.type == field.type or (keep_codes and pa.types.is_dictionary(array.type))
        else array.cast(field.type)
        for array, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, names=schema.names)


def _empty(dataset: Dataset) -> pa.RecordBatch:
    schema = wire_schema(dataset)
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
