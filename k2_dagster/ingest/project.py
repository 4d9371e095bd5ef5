"""From a writer's layout to the dataset's wire form: by name, exactly, or not at all.

A field that the writer does not have is null. A price or size in another scale is rescaled when that is exact; a value
that does not fit is refused with its row, never rounded. A schema that cannot carry the dataset is refused as a whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest.avro_layout import Node
from k2_dagster.ingest.refusal import Refusal
from k2_dagster.schemas.arrow import wire_type
from k2_dagster.schemas.declaration import PRICE_SCALE, SIZE_SCALE, Dataset, Field, FieldType

Int64s = npt.NDArray[np.int64]
Column = tuple[pa.Array, Int64s]

_MICROS_PER = {"timestamp-micros": 1, "timestamp-millis": 1_000, None: 1}
# A book may have thousands of levels; a detail is for a person.
SHOWN_CHARACTERS = 200
_SCALES = {FieldType.PRICE: PRICE_SCALE, FieldType.SIZE: SIZE_SCALE}
_ACCEPTED = {
    FieldType.STRING: ("string", "enum"),
    FieldType.LONG: ("int", "long"),
    FieldType.INT: ("int", "long"),
    FieldType.TIMESTAMP: ("long",),
    FieldType.PRICE: ("int", "long", "bytes", "fixed"),
    FieldType.SIZE: ("int", "long", "bytes", "fixed"),
    FieldType.STRINGS: ("array",),
    FieldType.LEVELS: ("array",),
}


class SchemaMismatch(Exception):
    """A writer's schema cannot carry the dataset; the message says which field and why."""


@dataclass(frozen=True, slots=True)
class Projection:
    """How to read one writer's records as rows of a dataset. Make it with `plan`."""

    dataset: Dataset
    columns: tuple[tuple[Field, str | None, Node | None], ...]

    def apply(self, records: pa.StructArray, rows: Int64s) -> tuple[pa.RecordBatch, list[Refusal]]:
        """Wire-form columns, and the rows (by their place in the batch) whose values do not fit exactly."""
        arrays, names, refusals = [], [], []
        flat = dict(zip([one.name for one in records.type], records.flatten(), strict=True))
        for field, source, node in self.columns:
            names.append(field.name)
            if source is None or node is None:
                arrays.append(pa.nulls(len(records), wire_type(field.type)))
                continue
            array, wrong = _convert(field.type, node, flat[source])
            arrays.append(array)
            refusals += [
                Refusal(
                    int(rows[at]),
                    "not_exact",
                    f"{field.name} was {_shown(flat[source][int(at)])}, which does not fit exactly",
                )
                for at in wrong
            ]
        return pa.RecordBatch.from_arrays(arrays, names=names), refusals


def plan(dataset: Dataset, layout: Node) -> Projection:
    """Raises SchemaMismatch when a required field is missing or has a type that cannot be read as declared, or when the
    writer's schema has none of the dataset's own fields: it is another dataset's, and would land as a row of nulls."""
    have = dict(layout.children)
    # conditions are on trades and quotes alike
    own = [field.name for field in dataset.own_fields if field.type is not FieldType.STRINGS]
    if not any(name in have for name in own):
        raise SchemaMismatch(f"the writer's schema has none of the fields of {dataset.name}: {', '.join(own)}")
    columns: list[tuple[Field, str | None, Node | None]] = []
    for field in dataset.wire_fields:
        node = have.get(field.name)
        if node is None:
            if field.required and field.type not in (FieldType.STRINGS, FieldType.LEVELS):
                raise SchemaMismatch(f"the writer's schema has no field {field.name}")
            columns.append((field, None, None))
            continue
        _check(field, node)
        columns.append((field, field.name, node))
    return Projection(dataset, tuple(columns))


def _shown(value: pa.Scalar) -> str:
    text = repr(value.as_py())
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _check(field: Field, node: Node) -> None:
    if node.kind not in _ACCEPTED[field.type]:
        raise SchemaMismatch(f"{field.name} is written as {node.kind}; valid: {', '.join(_ACCEPTED[field.type])}")
    if node.kind in ("bytes", "fixed") and node.attributes.get("logicalType") != "decimal":
        raise SchemaMismatch(f"{field.name} is written as plain {node.kind}; valid: a scaled long or a decimal")
    if field.type is FieldType.TIMESTAMP and node.attributes.get("logicalType") not in _MICROS_PER:
        raise SchemaMismatch(f"{field.name} is written as {node.attributes['logicalType']}; valid: timestamp-micros")
    if field.type is FieldType.LEVELS:
        parts = dict(node.children[0][1].children)
        for name in ("price", "size"):
            if name not in parts or parts[name].kind not in ("int", "long"):
                raise SchemaMismatch(f"{field.name} has levels without a scaled long {name}")


def _convert(field_type: FieldType, node: Node, array: pa.Array) -> Column:
    if field_type in _SCALES:
        return _scaled(node, array, _SCALES[field_type])
    if field_type is FieldType.LEVELS:
        return _levels(node, array)
    return _PLAIN[field_type](node, array)


def _as_is(node: Node, array: pa.Array) -> Column:
    del node
    return array, np.zeros(0, dtype=np.int64)


def _long(node: Node, array: pa.Array) -> Column:
    return _as_is(node, array.cast(pa.int64()))


def _int(node: Node, array: pa.Array) -> Column:
    if array.type == pa.int32():
        return _as_is(node, array)
    if array.null_count == len(array):
        return _as_is(node, pa.nulls(len(array), pa.int32()))
    values = _filled(array)
    wrong = np.flatnonzero((values < -(2**31)) | (values >= 2**31))
    return _numbers(np.where((values < -(2**31)) | (values >= 2**31), 0, values), array, pa.int32()), wrong


def _time(node: Node, array: pa.Array) -> Column:
    factor = _MICROS_PER[node.attributes.get("logicalType")]
    if factor == 1 and array.type == pa.int64():
        return _as_is(node, array.view(wire_type(FieldType.TIMESTAMP)))
    values, wrong = _multiplied(_filled(array), factor)
    return _numbers(values, array, wire_type(FieldType.TIMESTAMP)), wrong


def _scaled(node: Node, array: pa.Array, scale: int) -> Column:
    written = int(node.attributes.get("scale", 0 if node.kind in ("bytes", "fixed") else scale))
    if node.kind in ("bytes", "fixed"):
        return _decimals(array, written, scale)
    if written == scale and array.type == pa.int64():
        return _as_is(node, array)
    values = _filled(array)
    if written <= scale:
        out, wrong = _multiplied(values, 10 ** (scale - written))
    else:
        divisor = 10 ** (written - scale)
        out, wrong = values // divisor, np.flatnonzero(values % divisor)
    return _numbers(out, array, pa.int64()), wrong


def _decimals(array: pa.Array, written: int, scale: int) -> Column:
    """Avro decimals are big-endian two's complement bytes; foreign topics only, so a loop will do."""
    values: list[int | None] = []
    wrong: list[int] = []
    for at, raw in enumerate(array.to_pylist()):
        if raw is None:
            values.append(None)
            continue
        number, rest = divmod(int.from_bytes(raw, "big", signed=True) * 10**scale, 10**written)
        if rest or not -(2**63) <= number < 2**63:
            wrong.append(at)
            number = 0
        values.append(number)
    return pa.array(values, pa.int64()), np.array(wrong, dtype=np.int64)


def _levels(node: Node, array: pa.Array) -> Column:
    level = node.children[0][1]
    parts = dict(level.children)
    # a slice of a batch still holds the items of the whole
    offsets = array.offsets.to_numpy()
    items = array.values.slice(offsets[0], offsets[-1] - offsets[0])
    offsets = offsets - offsets[0]
    flat = dict(zip([one.name for one in items.type], items.flatten(), strict=True))
    price, bad_price = _scaled(parts["price"], flat["price"], PRICE_SCALE)
    size, bad_size = _scaled(parts["size"], flat["size"], SIZE_SCALE)
    orders, bad_orders = (
        _int(parts["orders"], flat["orders"]) if "orders" in parts else _as_is(level, pa.nulls(len(items), pa.int32()))
    )
    struct = pa.StructArray.from_arrays([price, size, orders], names=["price", "size", "orders"])
    out = pa.ListArray.from_arrays(pa.array(offsets), struct, mask=array.is_null() if array.null_count else None)
    bad_items = np.union1d(np.union1d(bad_price, bad_size), bad_orders)
    rows = np.searchsorted(offsets, bad_items, side="right") - 1
    return out, np.unique(rows).astype(np.int64)


def _filled(array: pa.Array) -> Int64s:
    filled: Any = array.fill_null(0) if array.null_count else array
    out: Int64s = filled.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    return out


def _multiplied(values: Int64s, factor: int) -> tuple[Int64s, Int64s]:
    if factor == 1:
        return values, np.zeros(0, dtype=np.int64)
    limit = (2**63 - 1) // factor
    outside = (values > limit) | (values < -limit)
    return np.where(outside, 0, values) * factor, np.flatnonzero(outside)


def _numbers(values: Int64s, like: pa.Array, type_: pa.DataType) -> pa.Array:
    mask = like.is_null().to_numpy(zero_copy_only=False) if like.null_count else None
    return pa.array(values, pa.int64(), mask=mask).cast(type_)


_PLAIN: dict[FieldType, Callable[[Node, pa.Array], Column]] = {
    FieldType.STRING: _as_is,
    FieldType.STRINGS: _as_is,
    FieldType.LONG: _long,
    FieldType.INT: _int,
    FieldType.TIMESTAMP: _time,
}
