"""How a writer's Avro schema lays out on Arrow."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

# `Node.null_branch` of a union that has one type only: a byte on the wire, and never null.
UNION_OF_ONE = -2
_PRIMITIVES: Mapping[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "int": pa.int64(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "bytes": pa.binary(),
}


@dataclass(frozen=True, slots=True)
class Node:
    """One type of a writer's schema, without names and logical types; `attributes` keeps scale, unit and the like.
    `null_branch` says which branch of an Avro union is null; -1 where there is no union."""

    kind: str
    arrow: pa.DataType
    nullable: bool
    attributes: Mapping[str, Any]
    children: tuple[tuple[str, "Node"], ...] = ()
    null_branch: int = -1


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


def _node(schema: Any, names: dict[str, Any]) -> Node:
    if isinstance(schema, list):
        return _union(schema, names)
    attributes = schema if isinstance(schema, dict) else {}
    kind = schema["type"] if isinstance(schema, dict) else schema
    if isinstance(kind, (dict, list)):
        inner = _node(kind, names)
        return replace(inner, attributes={**attributes, **inner.attributes})
    if kind in names:
        return _node(names[kind], {key: value for key, value in names.items() if key != kind})
    if kind in ("record", "enum", "fixed"):
        names[attributes["name"]] = schema
    if kind in _PRIMITIVES:
        return Node(kind, _PRIMITIVES[kind], False, attributes)
    if kind == "enum":
        return Node(kind, pa.string(), False, attributes)
    if kind == "fixed":
        return Node(kind, pa.binary(), False, attributes)
    if kind == "array":
        return _array(attributes, names)
    if kind == "record":
        return _record(attributes, names)
    raise ValueError(f"type {kind!r} cannot be read; valid: records, arrays, enums and primitive types")


def _array(attributes: Mapping[str, Any], names: dict[str, Any]) -> Node:
    item = _node(attributes["items"], names)
    return Node("array", pa.list_(pa.field("item", item.arrow)), False, attributes, (("item", item),))


def _record(attributes: Mapping[str, Any], names: dict[str, Any]) -> Node:
    children = tuple((one["name"], _node(one["type"], names)) for one in attributes["fields"])
    arrow = pa.struct([pa.field(name, child.arrow) for name, child in children])
    return Node("record", arrow, False, attributes, children)


def _union(branches: list[Any], names: dict[str, Any]) -> Node:
    others = [one for one in branches if one != "null"]
    if len(others) != 1:
        raise ValueError(f"union {branches} cannot be read; valid: null and one other type")
    inner = _node(others[0], names)
    if len(branches) == 1:
        return replace(inner, null_branch=UNION_OF_ONE)
    return replace(inner, nullable=True, null_branch=branches.index("null"))
