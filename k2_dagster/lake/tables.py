"""The tables of the lake: created from the declarations, checked against them."""

import uuid
from dataclasses import dataclass

from pyiceberg.catalog import Catalog
from pyiceberg.io import load_file_io
from pyiceberg.schema import Schema
from pyiceberg.serializers import ToOutputFile
from pyiceberg.table import Table
from pyiceberg.table.locations import load_location_provider
from pyiceberg.table.metadata import TableMetadataV2
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.table.update import AddSchemaUpdate, AssertCurrentSchemaId, SetCurrentSchemaUpdate
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import NestedField

from k2_dagster.errors import NotInitialized, SchemaIncompatible
from k2_dagster.lake.catalog import load_table, translated_errors
from k2_dagster.schemas import iceberg
from k2_dagster.schemas.datasets import NAMESPACE, TABLES, table_name
from k2_dagster.schemas.declaration import Dataset

# Metadata files that stay behind for readers that loaded an older one.
METADATA_VERSIONS_KEPT = 20
# For other engines that write to a table; ours puts manifests together by `manifests.py`. Small targets keep one merge
# cheap for ever.
MANIFESTS_BEFORE_MERGE = 50
MANIFEST_TARGET_BYTES = 262_144

PROPERTIES = {
    # PyIceberg's own retry is blind to the fence: a zombie would append twice. K2 retries itself, under the lock.
    "commit.retry.num-retries": "0",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": str(METADATA_VERSIONS_KEPT),
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": str(MANIFESTS_BEFORE_MERGE),
    "commit.manifest.target-size-bytes": str(MANIFEST_TARGET_BYTES),
}


@dataclass(frozen=True, slots=True)
class TableOutcome:
    """What `ensure_tables` did with one table: `created`, `columns added` or `present`."""

    table: str
    outcome: str


def ensure_tables(catalog: Catalog) -> list[TableOutcome]:
    """Create the missing tables and add the missing columns. Raises SchemaIncompatible on any other difference,
    TableLost when the catalog names a table that the warehouse does not have."""
    with translated_errors():
        catalog.create_namespace_if_not_exists(NAMESPACE)
        return [TableOutcome(table_name(dataset.name), _ensure(catalog, dataset)) for dataset in TABLES.values()]


def require_addable(catalog: Catalog) -> None:
    """Raises SchemaIncompatible as `ensure_tables` would, and changes nothing."""
    with translated_errors():
        for dataset in TABLES.values():
            if catalog.table_exists(table_name(dataset.name)):
                _missing_fields(load_table(catalog, table_name(dataset.name)), dataset)


def _ensure(catalog: Catalog, dataset: Dataset) -> str:
    name = table_name(dataset.name)
    try:
        table = load_table(catalog, name)
    except NotInitialized:
        _create(catalog, dataset)
        return "created"
    return "columns added" if _add_columns(catalog, table, dataset) else "present"


def _create(catalog: Catalog, dataset: Dataset) -> None:
    """Register a table whose metadata has the declared field ids: `create_table` would number the fields anew.

    It is created unsorted and then given its order, or Spark could not sort it otherwise.
    """
    name = table_name(dataset.name)
    schema, spec = iceberg.table_schema(dataset), iceberg.partition_spec(dataset)
    location = _location(catalog, dataset)
    metadata = TableMetadataV2(
        location=location,
        schemas=[schema],
        last_column_id=schema.highest_field_id,
        current_schema_id=schema.schema_id,
        partition_specs=[spec],
        default_spec_id=spec.spec_id,
        last_partition_id=spec.last_assigned_field_id,
        sort_orders=[UNSORTED_SORT_ORDER],
        default_sort_order_id=UNSORTED_SORT_ORDER.order_id,
        properties=PROPERTIES,
        table_uuid=uuid.uuid4(),
    )
    path = load_location_provider(location, PROPERTIES).new_table_metadata_file_location()
    ToOutputFile.table_metadata(metadata, load_file_io(catalog.properties, path).new_output(path))
    table = catalog.register_table(name, path)
    with table.update_sort_order() as update:
        for column in dataset.sort:
            update.asc(column, transform=IdentityTransform())


def _location(catalog: Catalog, dataset: Dataset) -> str:
    return f"{catalog.properties['warehouse'].rstrip('/')}/{NAMESPACE}/{dataset.name}"


def _add_columns(catalog: Catalog, table: Table, dataset: Dataset) -> bool:
    current = table.schema()
    missing = _missing_fields(table, dataset)
    if missing:
        grown = Schema(*current.fields, *missing, schema_id=current.schema_id + 1)
        catalog.commit_table(
            table,
            (AssertCurrentSchemaId(current_schema_id=current.schema_id),),
            (AddSchemaUpdate(schema_=grown), SetCurrentSchemaUpdate(schema_id=-1)),
        )
    return bool(missing)


def _missing_fields(table: Table, dataset: Dataset) -> list[NestedField]:
    """Declared columns that the table has not; raises SchemaIncompatible where they cannot be added."""
    wanted = iceberg.table_schema(dataset)
    known = {field.field_id: field for field in table.schema().fields}
    missing = [field for field in wanted.fields if field.field_id not in known]
    for field in wanted.fields:
        found = known.get(field.field_id)
        if found is not None and (found.name, found.field_type) != (field.name, field.field_type):
            raise SchemaIncompatible(
                f"{table_name(dataset.name)} column {field.field_id} is {found.name} {found.field_type}, "
                f"the declaration says {field.name} {field.field_type}",
                advice="a column's id, name and type are for ever: declare a new field instead",
            )
    if any(field.required for field in missing):
        raise SchemaIncompatible(
            f"{table_name(dataset.name)} has rows without {', '.join(f.name for f in missing if f.required)}",
            advice="a field that is added later cannot be required",
        )
    return missing
