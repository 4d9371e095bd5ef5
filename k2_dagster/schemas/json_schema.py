"""JSON Schema form of a dataset: the same fields and numbers as the Avro form, for publishers that speak JSON."""

import json
from typing import Any

from k2_dagster.schemas.declaration import PRICE_SCALE, SIZE_SCALE, Dataset, Field, FieldType
from k2_dagster.schemas.levels import LEVEL_FIELDS

DRAFT = "http://json-schema.org/draft-07/schema#"
_LONG = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
_INT = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}


def _plain_type(one: Field) -> dict[str, Any]:
    match one.type:
        case FieldType.STRING:
            return {"type": "string"}
        case FieldType.LONG:
            return dict(_LONG)
        case FieldType.INT:
            return dict(_INT)
        case FieldType.TIMESTAMP:
            return {**_LONG, "unit": "UTC microseconds"}
        case FieldType.PRICE:
            return {**_LONG, "scale": PRICE_SCALE, "unit": one.unit}
        case FieldType.SIZE:
            return {**_LONG, "scale": SIZE_SCALE, "unit": one.unit}
        case FieldType.STRINGS:
            return {"type": "array", "items": {"type": "string"}}
        case FieldType.LEVELS:
            return {"type": "array", "items": _level()}
        case FieldType.BINARY | FieldType.HEADERS:
            raise ValueError(f"{one.name}: {one.type.value} has no wire form")


def _level() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {one.name: _property(one) for one in LEVEL_FIELDS},
        "required": [one.name for one in LEVEL_FIELDS if one.required],
    }


def _property(one: Field) -> dict[str, Any]:
    plain = _plain_type(one)
    if not one.required:
        plain["type"] = [plain["type"], "null"]
    return {**plain, "description": one.doc}


def json_schema(dataset: Dataset) -> dict[str, Any]:
    """The object schema as a JSON-able dict. Raises ValueError for a dataset without a wire form."""
    if not dataset.wire_fields:
        raise ValueError(f"{dataset.name} has no wire form")
    lists = (FieldType.STRINGS, FieldType.LEVELS)
    return {
        "$schema": DRAFT,
        "title": dataset.record,
        "description": dataset.doc,
        "type": "object",
        "properties": {one.name: _property(one) for one in dataset.wire_fields},
        "required": [one.name for one in dataset.wire_fields if one.required and one.type not in lists],
    }


def json_schema_text(dataset: Dataset) -> str:
    """The schema in the text form that is registered."""
    return json.dumps(json_schema(dataset), separators=(",", ":"))
