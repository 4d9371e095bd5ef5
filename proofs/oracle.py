"""What a message says, decoded by fastavro and the standard JSON parser: a second opinion on every row.

Shares no code with ingest but the declarations of the datasets.
"""

import io
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import fastavro
import jsonschema
import pyarrow as pa

from k2_dagster.kafka.registry import RegisteredSchema
from k2_dagster.schemas.declaration import Dataset, FieldType

FRAME_BYTES = 5
SCALE = 8
_SCALED = (FieldType.PRICE, FieldType.SIZE)

Row = dict[str, Any]


class Oracle:
    """Decodes messages of known schema ids into wire-form rows."""

    def __init__(self, schemas: Mapping[int, RegisteredSchema]) -> None:
        self._schemas = schemas
        self._avro = {
            number: fastavro.parse_schema(raw_avro_schema(one.text))
            for number, one in schemas.items()
            if one.kind == "AVRO"
        }
        self._json = {
            number: jsonschema.Draft7Validator(json.loads(one.text))
            for number, one in schemas.items()
            if one.kind == "JSON"
        }

    def decode(self, dataset: Dataset, value: bytes | None) -> Row | None:
        """The row in wire form (times as microseconds, numbers scaled); None when the bytes say nothing definite.

        Raises RecursionError for JSON that is nested more deeply than the standard parser goes.
        """
        schema_id = frame_id(value)
        if value is None or schema_id is None or schema_id not in self._schemas:
            return None
        try:
            record = self._record(schema_id, value[FRAME_BYTES:])
        except (ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, StopIteration):
            return None
        return _wire_row(dataset, record) if isinstance(record, dict) else None

    def _record(self, schema_id: int, body: bytes) -> Any:
        if schema_id in self._avro:
            stream = io.BytesIO(body)
            record = fastavro.schemaless_reader(stream, self._avro[schema_id])
            return record if stream.tell() == len(body) else None
        record = json.loads(body.decode("utf-8"), parse_constant=_refuse, parse_float=_number)
        # half of a surrogate pair, which JSON can write and no text has
        json.dumps(record, ensure_ascii=False).encode()
        if isinstance(record, dict):
            # null in a field that need not be there says what leaving it out says
            needed = self._json[schema_id].schema.get("required", ())
            record = {name: value for name, value in record.items() if value is not None or name in needed}
        if not self._json[schema_id].is_valid(record):
            return None
        # what the named schema does not describe is no part of the message
        return {name: value for name, value in record.items() if name in self._json[schema_id].schema["properties"]}


def _number(text: str) -> int | float:
    """Exactly what is written, where it is an integer that a field may hold. Raises ValueError for a number that is
    beyond every double: readers of JSON need not agree on it (RFC 8259, section 6), and ingest refuses its message."""
    exact = Decimal(text)
    if exact.adjusted() < 19 and exact == int(exact):
        return int(exact)
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text:.40} is beyond what a double holds")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def frame_id(value: bytes | None) -> int | None:
    """The schema id of a framed message."""
    if value is None or len(value) < FRAME_BYTES or value[0] != 0:
        return None
    return int.from_bytes(value[1:FRAME_BYTES], "big")


def raw_avro_schema(text: str) -> Any:
    """The schema without logical types, so that times stay the numbers that they are."""
    return _without_logical_types(json.loads(text))


def _without_logical_types(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_logical_types(one) for key, one in node.items() if key != "logicalType"}
    return [_without_logical_types(one) for one in node] if isinstance(node, list) else node


def _wire_row(dataset: Dataset, record: Mapping[str, Any]) -> Row:
    row = {}
    for field in dataset.wire_fields:
        value = record.get(field.name)
        if field.type is FieldType.LEVELS:
            value = [(one["price"], one["size"], one.get("orders")) for one in value or []]
        row[field.name] = value
    return row


def table_wire_rows(dataset: Dataset, rows: pa.Table) -> dict[tuple[int, int], Row]:
    """Rows of a table in wire form, by (partition, offset)."""
    columns: dict[str, list[Any]] = {}
    for field in dataset.wire_fields:
        column = rows[field.name]
        if field.type is FieldType.TIMESTAMP:
            columns[field.name] = column.cast(pa.int64()).to_pylist()
        elif field.type in _SCALED:
            columns[field.name] = [_scaled(one) for one in column.to_pylist()]
        elif field.type is FieldType.LEVELS:
            columns[field.name] = [[_level(one) for one in levels] for levels in column.to_pylist()]
        else:
            columns[field.name] = column.to_pylist()
    positions = zip(rows["kafka_partition"].to_pylist(), rows["kafka_offset"].to_pylist(), strict=True)
    return {position: {name: values[at] for name, values in columns.items()} for at, position in enumerate(positions)}


def _level(level: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
    return _scaled(level["price"]), _scaled(level["size"]), level["orders"]


def _scaled(value: Any) -> int | None:
    return None if value is None else int(value.scaleb(SCALE))


def different_fields(one: Row, other: Row) -> list[str]:
    """Names of the fields in which two rows differ. An absent list and an empty one are the same."""
    return [name for name, value in one.items() if _differ(value, other[name])]


def _differ(one: Any, other: Any) -> bool:
    if isinstance(one, list) or isinstance(other, list):
        return (one or []) != (other or [])
    return (type(one) is not type(other) and not (_is_number(one) and _is_number(other))) or one != other


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
