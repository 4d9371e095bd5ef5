"""What Dagster shows of a dataset's columns: name, type, unit and rule, from the declaration."""

import dagster as dg

from k2_dagster.schemas import iceberg
from k2_dagster.schemas.declaration import Dataset, Field
from k2_dagster.schemas.validation import describe

COLUMN_SCHEMA = "dagster/column_schema"
NO_UNIT = "none"


def column_schema(dataset: Dataset) -> dg.TableSchema:
    """The table's columns, with a unit in each description that has one (and as tag `unit`)."""
    types = {one.name: str(one.field_type) for one in iceberg.table_schema(dataset).fields}
    return dg.TableSchema(columns=[_column(one, types[one.name]) for one in dataset.fields])


def wire_column_schema(dataset: Dataset) -> dg.TableSchema:
    """The fields of a message, prices and sizes as scaled longs."""
    return dg.TableSchema(columns=[_column(one, one.type.value) for one in dataset.wire_fields])


def _column(field: Field, type_name: str) -> dg.TableColumn:
    return dg.TableColumn(
        name=field.name,
        type=type_name,
        description=f"{field.doc} [{field.unit}]" if field.unit else field.doc,
        constraints=dg.TableColumnConstraints(
            nullable=not field.required, other=[describe(field.rule)] if field.rule is not None else []
        ),
        tags={"unit": field.unit or NO_UNIT},
    )
