"""Avro form of a dataset: what its topics carry, in Confluent framing (a zero byte, a schema id, the record).

Numbers are scaled longs rather than Avro decimals: the fast decoder has no decimals, and a long is exact.
`scale` and `unit` are attributes that the schema registry keeps and `evolution.py` guards.
"""

import json
from typing import Any

from k2_dagster.schemas.declaration import PRICE_SCALE, SIZE_SCALE, Dataset, Field, FieldType
from k2_dagster.schemas.levels import LEVEL_FIELDS

RECORD_NAMESPACE = "k2.market"


def _number(kind: str, scale: int, unit: str) -> dict[str, Any]:
    return {"type": "long", "scale": scale, "unit": unit or kind}


def _plain_type(one: Field) -> Any:
    match one.type:
        case FieldType.STRING:
            return "string"
        case FieldType.LONG:
            return "long"
        case FieldType.INT:
            return "int"
        case FieldType.TIMESTAMP:
            return {"type": "long", "logicalType": "timestamp-micros"}
        case FieldType.PRICE:
            return _number("price", PRICE_SCALE, one.unit)
        case FieldType.SIZE:
            return _number("size", SIZE_SCALE, one.unit)
        case FieldType.STRINGS:
            return {"type": "array", "items": "string"}
        case FieldType.LEVELS:
            return {"type": "array", "items": _level(one)}
        case FieldType.BINARY | FieldType.HEADERS:
            raise ValueError(f"{one.name}: {one.type.value} has no wire form")


def _level(one: Field) -> dict[str, Any]:
    return {
        "type": "record",
        "name": f"{one.name.title().rstrip('s')}Level",
        "fields": [_field(part) for part in LEVEL_FIELDS],
    }


def _field(one: Field) -> dict[str, Any]:
    plain = _plain_type(one)
    if one.type in (FieldType.STRINGS, FieldType.LEVELS):
        return {"name": one.name, "type": plain, "doc": one.doc, "default": []}
    if one.required:
        return {"name": one.name, "type": plain, "doc": one.doc}
    return {"name": one.name, "type": ["null", plain], "doc": one.doc, "default": None}


def avro_schema(dataset: Dataset) -> dict[str, Any]:
    """The record schema as a JSON-able dict. Raises ValueError for a dataset without a wire form."""
    if not dataset.wire_fields:
        raise ValueError(f"{dataset.name} has no wire form")
    return {
        "type": "record",
        "name": dataset.record,
        "namespace": RECORD_NAMESPACE,
        "doc": dataset.doc,
        "fields": [_field(one) for one in dataset.wire_fields],
    }


def avro_schema_text(dataset: Dataset) -> str:
    """The schema in the text form that is registered."""
    return json.dumps(avro_schema(dataset), separators=(",", ":"))
