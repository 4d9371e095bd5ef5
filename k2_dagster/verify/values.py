"""Whether rows say what their messages say: every wire field, exactly. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from k2_dagster.schemas.arrow import wire_type
from k2_dagster.schemas.declaration import Dataset, Field, FieldType

Mask = npt.NDArray[np.bool_]
_DECIMALS = (FieldType.PRICE, FieldType.SIZE)


def differing(dataset: Dataset, records: Sequence[dict[str, Any]], rows: pa.Table) -> dict[str, Mask]:
    """Field -> which rows differ from their messages, for the fields that differ anywhere.

    `records` are decoded messages in wire form, `rows` the table rows of the same offsets in the same order.
    """
    out = {}
    for field in dataset.wire_fields:
        said = [record[field.name] for record in records]
        wrong = _differs(field, said, rows.column(field.name).combine_chunks())
        if wrong.any():
            out[field.name] = wrong
    return out


def _differs(field: Field, said: list[Any], column: pa.Array) -> Mask:
    if field.type is FieldType.LEVELS or field.type is FieldType.STRINGS:
        found = wire_lists(column)
        return np.fromiter((one != (other or []) for one, other in zip(said, found, strict=True)), bool, len(said))
    found, overflow = unscaled(column) if field.type in _DECIMALS else (column, None)
    expected = pa.array(said, wire_type(field.type))
    if found.type != expected.type:
        found = found.cast(expected.type)
    same = pc.fill_null(pc.equal(found, expected), False).to_numpy(zero_copy_only=False)
    both_null = pc.and_(found.is_null(), expected.is_null()).to_numpy(zero_copy_only=False)
    wrong: Mask = ~(same | both_null)
    return wrong if overflow is None else wrong | overflow


def unscaled(column: pa.Array) -> tuple[pa.Array, Mask]:
    """Decimals of scale 8 as the integers of the wire, and which of them no int64 can hold.

    A decimal is 128 bits in two words: the low one is the integer, if the high one only repeats its sign.
    """
    decimals = column.cast(pa.decimal128(38, column.type.scale))
    words = np.frombuffer(decimals.buffers()[1], dtype=np.int64)
    words = words[2 * decimals.offset : 2 * (decimals.offset + len(decimals))]
    low, high = words[0::2], words[1::2]
    valid = decimals.is_valid().to_numpy(zero_copy_only=False)
    return pa.array(low, pa.int64(), mask=~valid), valid & (high != (low >> 63))


def wire_lists(column: pa.Array) -> list[Any]:
    """List columns as Python values with numbers in wire form."""
    if not pa.types.is_struct(column.type.value_type):
        return list(column.to_pylist())
    items = column.flatten()
    price, size, orders = (items.field(name) for name in ("price", "size", "orders"))
    parts = [unscaled(one)[0].to_pylist() for one in (price, size)]
    levels = [
        {"price": one, "size": other, "orders": count}
        for one, other, count in zip(*parts, orders.to_pylist(), strict=True)
    ]
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths).tolist()
    return [levels[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]
