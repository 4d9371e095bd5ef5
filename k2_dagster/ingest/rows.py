"""Accepted messages as table rows: sorted, typed and one Arrow table per day, ready to be written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest.columns import Codes
from k2_dagster.ingest.sorting import file_order
from k2_dagster.schemas.arrow import table_schema
from k2_dagster.schemas.declaration import PRICE_PRECISION, PRICE_SCALE, SIZE_PRECISION, SIZE_SCALE, Dataset, FieldType

Int64s = npt.NDArray[np.int64]
_EXACT = {
    FieldType.PRICE: pa.decimal128(PRICE_PRECISION, PRICE_SCALE),
    FieldType.SIZE: pa.decimal128(SIZE_PRECISION, SIZE_SCALE),
}


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
    for day in np.unique(accepted.days).tolist():
        of_day = np.flatnonzero(accepted.days == day)
        name = str(np.datetime64(int(day), "D"))
        out[name] = _table(dataset, accepted, of_day)
    return out


def _table(dataset: Dataset, accepted: Accepted, of_day: Int64s) -> pa.Table:
    places = accepted.places[of_day]
    time = _int64(accepted.wire.column("exchange_timestamp"))[places]
    sequence = _int64(accepted.wire.column("sequence"), missing=-1)[places]
    order = file_order(accepted.codes["symbol"].take(places), time, sequence)
    rows, stamped = places[order], of_day[order]
    arrays = []
    fields = []
    taken = pa.array(rows)
    for field, declared in zip(table_schema(dataset), dataset.fields, strict=True):
        if declared.source == "ingest":
            array = accepted.stamps[field.name].take(pa.array(stamped))
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
    """The low word of a decimal is the long itself, the high word its sign."""
    values = _int64(array)
    words = np.empty(2 * len(values), dtype=np.int64)
    words[0::2] = values
    words[1::2] = values >> 63
    validity = None
    if array.null_count:
        validity = pa.array(array.is_valid().to_numpy(zero_copy_only=False), pa.bool_()).buffers()[1]
    return pa.Array.from_buffers(type_, len(values), [validity, pa.py_buffer(words)])


def _levels(array: pa.Array, wanted: Any) -> pa.Array:
    """A list of levels; a null list is an empty one, for a side that the venue did not mention."""
    filled = array if array.null_count == 0 else _empty_for_null(array)
    offsets = filled.offsets
    items = filled.values
    item_type = wanted.value_type
    price, size, orders = items.flatten()
    level = pa.StructArray.from_arrays(
        [_decimals(price, _EXACT[FieldType.PRICE]), _decimals(size, _EXACT[FieldType.SIZE]), orders],
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
