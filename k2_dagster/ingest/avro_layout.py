"""How a writer's Avro schema lays out on Arrow, and how many bytes a decoded row took on the wire.

The length is the proof that a decoding is right: the fast decoder accepts trailing bytes, and a damaged length makes it
read on into the next message. A row whose fields do not add up to its message's length was not that message.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64s = npt.NDArray[np.int64]

# Enum indexes below this take one byte; larger enums go the slow way.
MAX_FAST_ENUM = 64
_PRIMITIVES: Mapping[str, pa.DataType] = {
    "boolean": pa.bool_(),
    # read as a long: the fast decoder wraps a damaged int around, and its length can still add up
    "int": pa.int64(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "bytes": pa.binary(),
}
_FIXED_BYTES = {"boolean": 1, "float": 4, "double": 8}


@dataclass(frozen=True, slots=True)
class Node:
    """One type of a writer's schema, without names and logical types; `attributes` keeps scale, unit and the like."""

    kind: str
    arrow: pa.DataType
    nullable: bool
    fast: bool
    attributes: Mapping[str, Any]
    children: tuple[tuple[str, "Node"], ...] = ()


def parse(schema_text: str) -> Node:
    """The layout of a record schema. Raises ValueError when it is not a record or uses what cannot be read."""
    node = _node(json.loads(schema_text), {})
    if node.kind != "record":
        raise ValueError(f"the schema is a {node.kind}, not a record")
    return node


def bare(schema: Any) -> Any:
    """The schema without logical types and attributes: numbers stay the integers they are on the wire, all long."""
    if schema == "int":
        return "long"
    if isinstance(schema, list):
        return [bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: value
        for key, value in schema.items()
        if key in ("type", "name", "namespace", "symbols", "size", "aliases")
    }
    for key in ("items", "values"):
        if key in schema:
            kept[key] = bare(schema[key])
    if "fields" in schema:
        kept["fields"] = [{"name": one["name"], "type": bare(one["type"])} for one in schema["fields"]]
    elif isinstance(schema.get("type"), (dict, list)) or schema.get("type") == "int":
        return bare(schema["type"])
    return kept


def encoded_lengths(node: Node, array: pa.Array) -> Int64s:
    """Bytes that each value of a decoded array took on the wire, in the encoding that every common encoder writes."""
    if node.nullable and array.null_count == len(array):
        return np.ones(len(array), dtype=np.int64)
    if not node.nullable or not array.null_count:
        return _ENCODED[node.kind](node, array) + int(node.nullable)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return 1 + np.where(valid, _ENCODED[node.kind](node, array), 0)


def _node(schema: Any, names: dict[str, Any]) -> Node:
    if isinstance(schema, list):
        return _union(schema, names)
    attributes = schema if isinstance(schema, dict) else {}
    kind = schema["type"] if isinstance(schema, dict) else schema
    if isinstance(kind, (dict, list)):
        inner = _node(kind, names)
        return Node(
            inner.kind, inner.arrow, inner.nullable, inner.fast, {**attributes, **inner.attributes}, inner.children
        )
    if kind in names:
        return _node(names[kind], {key: value for key, value in names.items() if key != kind})
    if kind in ("record", "enum", "fixed"):
        names[attributes["name"]] = schema
    if kind in _PRIMITIVES:
        return Node(kind, _PRIMITIVES[kind], False, kind != "bytes", attributes)
    if kind == "enum":
        return Node(kind, pa.string(), False, len(attributes["symbols"]) < MAX_FAST_ENUM, attributes)
    if kind == "fixed":
        return Node(kind, pa.binary(), False, False, attributes)
    if kind == "array":
        return _array(attributes, names)
    if kind == "record":
        return _record(attributes, names)
    raise ValueError(f"type {kind!r} cannot be read; valid: records, arrays, enums and primitive types")


def _array(attributes: Mapping[str, Any], names: dict[str, Any]) -> Node:
    item = _node(attributes["items"], names)
    return Node("array", pa.list_(pa.field("item", item.arrow)), False, item.fast, attributes, (("item", item),))


def _record(attributes: Mapping[str, Any], names: dict[str, Any]) -> Node:
    children = tuple((one["name"], _node(one["type"], names)) for one in attributes["fields"])
    arrow = pa.struct([pa.field(name, child.arrow) for name, child in children])
    return Node("record", arrow, False, all(child.fast for _, child in children), attributes, children)


def _union(branches: list[Any], names: dict[str, Any]) -> Node:
    others = [one for one in branches if one != "null"]
    if len(others) != 1:
        raise ValueError(f"union {branches} cannot be read; valid: null and one other type")
    inner = _node(others[0], names)
    nullable = len(branches) == 2
    return Node(inner.kind, inner.arrow, nullable, inner.fast, inner.attributes, inner.children)


@numba.njit(cache=True, nogil=True)
def _varint_length(value):  # type: ignore[no-untyped-def]
    zigzag = np.uint64((value << 1) ^ (value >> 63))
    length = 1
    while zigzag >= np.uint64(128):
        zigzag >>= np.uint64(7)
        length += 1
    return length


@numba.njit(cache=True, nogil=True)
def _varint_lengths(values):  # type: ignore[no-untyped-def]
    out = np.empty(len(values), dtype=np.int64)
    for at in range(len(values)):
        out[at] = _varint_length(np.int64(values[at]))
    return out


@numba.njit(cache=True, nogil=True)
def _text_lengths(offsets):  # type: ignore[no-untyped-def]
    out = np.empty(len(offsets) - 1, dtype=np.int64)
    for at in range(len(out)):
        size = np.int64(offsets[at + 1]) - np.int64(offsets[at])
        out[at] = size + _varint_length(size)
    return out


def _integers(_: Node, array: pa.Array) -> Int64s:
    filled = array.fill_null(0) if array.null_count else array
    out: Int64s = _varint_lengths(filled.to_numpy(zero_copy_only=False))
    return out


def _strings(_: Node, array: pa.Array) -> Int64s:
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int32)[array.offset : array.offset + len(array) + 1]
    out: Int64s = _text_lengths(offsets)
    return out


def _constant(node: Node, array: pa.Array) -> Int64s:
    return np.full(len(array), _FIXED_BYTES.get(node.kind, 1), dtype=np.int64)


def _arrays(node: Node, array: pa.Array) -> Int64s:
    offsets = array.offsets.to_numpy().astype(np.int64)
    items = encoded_lengths(node.children[0][1], array.values)
    sums = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(items)])
    counts = np.diff(offsets)
    counted: Int64s = _varint_lengths(counts)
    return np.where(counts == 0, 1, counted + 1 + sums[offsets[1:]] - sums[offsets[:-1]])


def _records(node: Node, array: pa.Array) -> Int64s:
    out = np.zeros(len(array), dtype=np.int64)
    constant = 0
    for at, (_, child) in enumerate(node.children):
        field = array.field(at)
        if child.nullable and field.null_count == len(field):
            constant += 1
        else:
            out += encoded_lengths(child, field)
    return out + constant


_ENCODED: Mapping[str, Callable[[Node, pa.Array], Int64s]] = {
    "boolean": _constant,
    "float": _constant,
    "double": _constant,
    "enum": _constant,
    "int": _integers,
    "long": _integers,
    "string": _strings,
    "array": _arrays,
    "record": _records,
}
