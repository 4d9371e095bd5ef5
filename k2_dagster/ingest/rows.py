"""Accepted messages as table rows: sorted, typed and one Arrow table per day, ready to be written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest.columns import Codes
from k2_dagster.ingest.gather import gather, gather_array, gather_wide, text_column
from k2_dagster.ingest.sorting import file_order
from k2_dagster.schemas.arrow import table_schema
from k2_dagster.schemas.declaration import PRICE_PRECISION, PRICE_SCALE, SIZE_PRECISION, SIZE_SCALE, Dataset, FieldType

Int64s = npt.NDArray[np.int64]
# A price fits 64 bits: as decimal64 its longs are taken as they are, here and in the file.
_EXACT = {
    FieldType.PRICE: pa.decimal64(PRICE_PRECISION, PRICE_SCALE),
    FieldType.SIZE: pa.decimal128(SIZE_PRECISION, SIZE_SCALE),
}
# Inside a list of levels the type is the table's own.
_EXACT_LEVEL = _EXACT | {FieldType.PRICE: pa.decimal128(PRICE_PRECISION, PRICE_SCALE)}


# A column that ingest adds: of each message of the raw batch, or the same for all.
Stamp = npt.NDArray[np.int64] | npt.NDArray[np.int32] | Codes | int


@dataclass(frozen=True, slots=True)
class Accepted:
    """The rows to write: their `places` in `wire` and their `messages` in the raw batch, in the same order, and their
    `days`. `codes` are per place, `stamps` per message."""

    wire: pa.RecordBatch
    places: Int64s
    messages: Int64s
    codes: Mapping[str, Codes]
    days: Int64s
    stamps: Mapping[str, Stamp]


class Days(Mapping[str, pa.Table]):
    """What `by_day` makes, made when it is first looked at: by the stage that writes, while the judge, which has the
    most to do of all stages, goes on."""

    def __init__(self, dataset: Dataset, accepted: Accepted) -> None:
        self._dataset = dataset
        self._accepted: Accepted | None = accepted
        self._tables: dict[str, pa.Table] = {}

    def __getitem__(self, day: str) -> pa.Table:
        return self._made()[day]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made())

    def __len__(self) -> int:
        return len(self._made())

    def _made(self) -> dict[str, pa.Table]:
        if self._accepted is not None:
            self._tables, self._accepted = by_day(self._dataset, self._accepted), None
        return self._tables


def by_day(dataset: Dataset, accepted: Accepted) -> dict[str, pa.Table]:
    """One table per UTC day (YYYY-MM-DD), in file order, with the table's schema and field ids."""
    out = {}
    days = _distinct(accepted.days)
    for day in days:
        places, messages = accepted.places, accepted.messages
        if len(days) > 1:
            of_day = np.flatnonzero(accepted.days == day)
            places, messages = places[of_day], messages[of_day]
        out[str(np.datetime64(day, "D"))] = _table(dataset, accepted, places, messages)
    return out


def _distinct(days: Int64s) -> list[int]:
    """In ascending order; a batch of one day, as nearly all are, needs no sorting."""
    if len(days) and bool((days == days[0]).all()):
        return [int(days[0])]
    out: list[int] = np.unique(days).tolist()
    return out


def _table(dataset: Dataset, accepted: Accepted, places: Int64s, messages: Int64s) -> pa.Table:
    wire = accepted.wire
    time = gather(_int64(wire.column("exchange_timestamp")), places)
    sequence = gather(_int64(wire.column("sequence"), missing=-1), places)
    order = file_order(accepted.codes["symbol"].take(places), time, sequence)
    in_order = gather(places, order)
    messages = in_order if messages is places else gather(messages, order)
    places = in_order
    arrays = []
    fields = []
    for field, declared in zip(table_schema(dataset), dataset.fields, strict=True):
        if declared.source == "ingest":
            array = _stamped(accepted.stamps[field.name], messages, field.type)
        elif field.name in accepted.codes:
            array = text_column(accepted.codes[field.name], places)
        else:
            array = table_form(declared.type, wire.column(field.name), places, field.type)
        arrays.append(array)
        fields.append(field.with_type(array.type))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _stamped(stamp: Stamp, messages: Int64s, type_: pa.DataType) -> pa.Array:
    if isinstance(stamp, Codes):
        return text_column(stamp, messages)
    if isinstance(stamp, int):
        return pa.array(np.full(len(messages), stamp, dtype=np.int32 if type_ == pa.int32() else np.int64)).view(type_)
    return pa.array(gather(stamp, messages)).view(type_)


def table_form(field_type: FieldType, array: pa.Array, rows: Int64s, wanted: pa.DataType) -> pa.Array:
    """Rows of a wire column as a table column: scaled longs become decimals of the same value."""
    if field_type in _EXACT:
        return _decimals(array, rows, _EXACT[field_type])
    taken = gather_array(array, rows)
    if field_type is FieldType.LEVELS:
        return _levels(taken, wanted)
    return taken.cast(wanted) if field_type is FieldType.STRINGS else taken


def _decimals(array: pa.Array, rows: Int64s, type_: pa.DataType) -> pa.Array:
    """A decimal of up to 18 digits is the scaled long itself; of a wider one the long is the low word, its sign the
    high one."""
    words = (gather if type_.bit_width == 64 else gather_wide)(_int64(array), rows)
    validity = None
    if array.null_count:
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        validity = pa.array(gather(valid, rows), pa.bool_()).buffers()[1]
    return pa.Array.from_buffers(type_, len(rows), [validity, pa.py_buffer(words)])


def _levels(array: pa.Array, wanted: Any) -> pa.Array:
    """A list of levels; a null list is an empty one, for a side that the venue did not mention."""
    filled = array if array.null_count == 0 else _empty_for_null(array)
    offsets = filled.offsets
    items = filled.values
    item_type = wanted.value_type
    price, size, orders = items.flatten()
    whole = np.arange(len(items))
    level = pa.StructArray.from_arrays(
        [
            _decimals(price, whole, _EXACT_LEVEL[FieldType.PRICE]),
            _decimals(size, whole, _EXACT_LEVEL[FieldType.SIZE]),
            orders,
        ],
        fields=list(item_type),
    )
    return pa.ListArray.from_arrays(offsets, level, type=wanted)


def _empty_for_null(array: pa.Array) -> pa.Array:
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([np.zeros(1, dtype=np.int32), np.cumsum(lengths).astype(np.int32)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), array.flatten())


def _int64(array: pa.Array, missing: int = 0) -> Int64s:
    whole = array.view(pa.int64()) if pa.types.is_timestamp(array.type) else array
    filled = whole.fill_null(missing) if whole.null_count else whole
    out: Int64s = filled.to_numpy(zero_copy_only=False)
    return out
