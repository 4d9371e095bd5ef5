"""Accepted messages as table rows: sorted, typed and one Arrow table per day, ready to be written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest.columns import Codes
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


# Stamps that are the same on every row of a batch.
CONSTANT_STAMPS = ("ingest_timestamp", "topic_epoch", "rules_version")


@dataclass(frozen=True, slots=True)
class Accepted:
    """The rows to write: `wire` row numbers in `places`, and what ingest stamps on each, in the same order."""

    wire: pa.RecordBatch
    places: Int64s
    codes: Mapping[str, Codes]
    days: Int64s
    stamps: Mapping[str, pa.Array]


def by_day(dataset: Dataset, accepted: Accepted) -> dict[str, pa.Table]:
    """One table per UTC day (YYYY-MM-DD), in file order, with the table's schema and field ids."""
    out = {}
    for day in _distinct(accepted.days):
        of_day = np.flatnonzero(accepted.days == day)
        name = str(np.datetime64(int(day), "D"))
        out[name] = _table(dataset, accepted, of_day)
    return out


def _distinct(days: Int64s) -> list[int]:
    """In ascending order; a batch of one day, as nearly all are, needs no sorting."""
    if len(days) and bool((days == days[0]).all()):
        return [int(days[0])]
    out: list[int] = np.unique(days).tolist()
    return out


def _table(dataset: Dataset, accepted: Accepted, of_day: Int64s) -> pa.Table:
    places = accepted.places[of_day]
    time = _int64(accepted.wire.column("exchange_timestamp"))[places]
    sequence = _int64(accepted.wire.column("sequence"), missing=-1)[places]
    order = file_order(accepted.codes["symbol"].take(places), time, sequence)
    rows, stamped = places[order], of_day[order]
    arrays = []
    fields = []
    taken, of_stamps = pa.array(rows), pa.array(stamped)
    for field, declared in zip(table_schema(dataset), dataset.fields, strict=True):
        if declared.source == "ingest":
            stamp = accepted.stamps[field.name]
            array = stamp.slice(0, len(stamped)) if field.name in CONSTANT_STAMPS else stamp.take(of_stamps)
        elif field.name in accepted.codes:
            array = accepted.codes[field.name].take(rows).arrow()
        else:
            array = table_form(declared.type, accepted.wire.column(field.name).take(taken), field.type)
        arrays.append(array)
        fields.append(field.with_type(array.type))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def table_form(field_type: FieldType, array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """A wire column as a table column: scaled longs become decimals of the same value."""
    if field_type in _EXACT:
        return _decimals(array, _EXACT[field_type])
    if field_type is FieldType.LEVELS:
        return _levels(array, wanted)
    if field_type is FieldType.STRINGS:
        return array.cast(wanted)
    return array


def _decimals(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """A decimal of up to 18 digits is the scaled long itself; of a wider one the long is the low word, its sign the
    high one."""
    values = _int64(array)
    words = values if type_.bit_width == 64 else _with_sign_words(values)
    validity = None
    if array.null_count:
        validity = pa.array(array.is_valid().to_numpy(zero_copy_only=False), pa.bool_()).buffers()[1]
    return pa.Array.from_buffers(type_, len(values), [validity, pa.py_buffer(words)])


@numba.njit(cache=True, nogil=True)
def _with_sign_words(values):  # type: ignore[no-untyped-def]
    words = np.empty(2 * len(values), dtype=np.int64)
    for at in range(len(values)):
        words[2 * at] = values[at]
        words[2 * at + 1] = values[at] >> 63
    return words


def _levels(array: pa.Array, wanted: Any) -> pa.Array:
    """A list of levels; a null list is an empty one, for a side that the venue did not mention."""
    filled = array if array.null_count == 0 else _empty_for_null(array)
    offsets = filled.offsets
    items = filled.values
    item_type = wanted.value_type
    price, size, orders = items.flatten()
    level = pa.StructArray.from_arrays(
        [_decimals(price, _EXACT_LEVEL[FieldType.PRICE]), _decimals(size, _EXACT_LEVEL[FieldType.SIZE]), orders],
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
