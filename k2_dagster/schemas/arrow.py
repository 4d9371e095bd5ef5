"""Arrow forms of a dataset: the wire form (what a message decodes to) and the table form (what a file holds)."""

import pyarrow as pa

from k2_dagster.schemas.declaration import (
    PRICE_PRECISION,
    PRICE_SCALE,
    SIZE_PRECISION,
    SIZE_SCALE,
    Dataset,
    FieldType,
)
from k2_dagster.schemas.levels import LEVEL_FIELDS

FIELD_ID = b"PARQUET:field_id"
TIMESTAMP = pa.timestamp("us", tz="UTC")
PRICE = pa.decimal128(PRICE_PRECISION, PRICE_SCALE)
SIZE = pa.decimal128(SIZE_PRECISION, SIZE_SCALE)

# Ids of nested fields: the parent's id times 100, plus the child's place (Iceberg ids are unique in a table).
NESTED_FACTOR = 100


def nested_id(parent_id: int, place: int) -> int:
    """Field id of a nested field; `place` 0 is the list element itself."""
    return parent_id * NESTED_FACTOR + place


def _identified(name: str, type_: pa.DataType, field_id: int, *, nullable: bool) -> pa.Field:
    return pa.field(name, type_, nullable=nullable, metadata={FIELD_ID: str(field_id).encode()})


def _levels(field_id: int) -> pa.DataType:
    level = pa.struct(
        [
            _identified(one.name, _SIMPLE[one.type], nested_id(field_id, one.id), nullable=not one.required)
            for one in LEVEL_FIELDS
        ]
    )
    return pa.list_(_identified("element", level, nested_id(field_id, 0), nullable=False))


def _headers(field_id: int) -> pa.DataType:
    header = pa.struct(
        [
            _identified("name", pa.string(), nested_id(field_id, 1), nullable=False),
            _identified("value", pa.binary(), nested_id(field_id, 2), nullable=True),
        ]
    )
    return pa.list_(_identified("element", header, nested_id(field_id, 0), nullable=False))


_SIMPLE = {
    FieldType.STRING: pa.string(),
    FieldType.LONG: pa.int64(),
    FieldType.INT: pa.int32(),
    FieldType.TIMESTAMP: TIMESTAMP,
    FieldType.PRICE: PRICE,
    FieldType.SIZE: SIZE,
    FieldType.BINARY: pa.binary(),
}


def _table_type(field_type: FieldType, field_id: int) -> pa.DataType:
    if field_type is FieldType.STRINGS:
        return pa.list_(_identified("element", pa.string(), nested_id(field_id, 0), nullable=False))
    if field_type is FieldType.LEVELS:
        return _levels(field_id)
    if field_type is FieldType.HEADERS:
        return _headers(field_id)
    return _SIMPLE[field_type]


def table_schema(dataset: Dataset) -> pa.Schema:
    """Schema of the table's rows, with Iceberg field ids, as Parquet files carry them."""
    return pa.schema(
        [
            _identified(one.name, _table_type(one.type, one.id), one.id, nullable=not one.required)
            for one in dataset.fields
        ]
    )


def wire_type(field_type: FieldType) -> pa.DataType:
    """Arrow type that a wire field decodes to: scaled int64 for prices and sizes, UTC microseconds for times."""
    match field_type:
        case FieldType.PRICE | FieldType.SIZE:
            return pa.int64()
        case FieldType.STRINGS:
            return pa.list_(pa.string())
        case FieldType.LEVELS:
            return pa.list_(pa.struct([(one.name, wire_type(one.type)) for one in LEVEL_FIELDS]))
        case _:
            return _table_type(field_type, 0)


def wire_schema(dataset: Dataset) -> pa.Schema:
    """Schema of a decoded batch: one column per wire field, in wire order, all nullable (rules judge nulls)."""
    return pa.schema([pa.field(one.name, wire_type(one.type)) for one in dataset.wire_fields])
