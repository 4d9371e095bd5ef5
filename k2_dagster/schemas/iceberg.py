"""Iceberg form of a dataset: schema, partitioning by exchange and day, and the sort order that files follow."""

from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import NullOrder, SortDirection, SortField, SortOrder
from pyiceberg.transforms import DayTransform, IdentityTransform
from pyiceberg.types import (
    BinaryType,
    DecimalType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    NestedField,
    StringType,
    StructType,
    TimestamptzType,
)

from k2_dagster.schemas.arrow import nested_id
from k2_dagster.schemas.declaration import (
    PRICE_PRECISION,
    PRICE_SCALE,
    SIZE_PRECISION,
    SIZE_SCALE,
    Dataset,
    Field,
    FieldType,
)
from k2_dagster.schemas.levels import LEVEL_FIELDS

# Iceberg numbers partition fields from 1000 on.
EXCHANGE_PARTITION_ID = 1000
DAY_PARTITION_ID = 1001

_PRICE = DecimalType(PRICE_PRECISION, PRICE_SCALE)
_SIZE = DecimalType(SIZE_PRECISION, SIZE_SCALE)


def _list(field_id: int, element: IcebergType) -> ListType:
    return ListType(element_id=nested_id(field_id, 0), element=element, element_required=True)


def _levels(field_id: int) -> ListType:
    return _list(
        field_id,
        StructType(
            *(
                NestedField(nested_id(field_id, one.id), one.name, _SIMPLE[one.type], required=one.required)
                for one in LEVEL_FIELDS
            )
        ),
    )


def _headers(field_id: int) -> ListType:
    return _list(
        field_id,
        StructType(
            NestedField(nested_id(field_id, 1), "name", StringType(), required=True),
            NestedField(nested_id(field_id, 2), "value", BinaryType(), required=False),
        ),
    )


_SIMPLE: dict[FieldType, IcebergType] = {
    FieldType.STRING: StringType(),
    FieldType.LONG: LongType(),
    FieldType.INT: IntegerType(),
    FieldType.TIMESTAMP: TimestamptzType(),
    FieldType.PRICE: _PRICE,
    FieldType.SIZE: _SIZE,
    FieldType.BINARY: BinaryType(),
}


def _type(one: Field) -> IcebergType:
    if one.type is FieldType.STRINGS:
        return _list(one.id, StringType())
    if one.type is FieldType.LEVELS:
        return _levels(one.id)
    if one.type is FieldType.HEADERS:
        return _headers(one.id)
    return _SIMPLE[one.type]


def table_schema(dataset: Dataset) -> Schema:
    """Iceberg schema with the declared ids; each column's doc carries its unit."""
    return Schema(
        *(
            NestedField(
                one.id,
                one.name,
                _type(one),
                required=one.required,
                doc=f"{one.doc} [{one.unit}]" if one.unit else one.doc,
            )
            for one in dataset.fields
        )
    )


def partition_spec(dataset: Dataset) -> PartitionSpec:
    """By exchange and by UTC day of the dataset's partition time."""
    return PartitionSpec(
        PartitionField(dataset["exchange"].id, EXCHANGE_PARTITION_ID, IdentityTransform(), "exchange"),
        PartitionField(dataset[dataset.partition_time].id, DAY_PARTITION_ID, DayTransform(), "day"),
    )


def sort_order(dataset: Dataset) -> SortOrder:
    """The order of rows inside a file. Set it on the table after creating it unsorted, or Spark cannot re-sort it."""
    return SortOrder(
        *(
            SortField(
                dataset[name].id,
                transform=IdentityTransform(),
                direction=SortDirection.ASC,
                null_order=NullOrder.NULLS_FIRST,
            )
            for name in dataset.sort
        ),
        order_id=1,
    )
