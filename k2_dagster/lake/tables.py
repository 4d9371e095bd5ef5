"""The tables of the lake: created from the declarations, checked against them."""

from dataclasses import dataclass

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform

from k2_dagster.errors import SchemaIncompatible
from k2_dagster.lake.catalog import load_table, translated_errors
from k2_dagster.schemas import iceberg
from k2_dagster.schemas.datasets import NAMESPACE, TABLES, table_name
from k2_dagster.schemas.declaration import Dataset

# Metadata files that stay behind for readers that loaded an older one.
METADATA_VERSIONS_KEPT = 20
# A manifest names one file per commit; merging keeps planning flat. Small targets keep one merge cheap for ever.
MANIFESTS_BEFORE_MERGE = 50
MANIFEST_TARGET_BYTES = 262_144

PROPERTIES = {
    "format-version": "2",
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
    """Create the missing tables and add the missing columns. Raises SchemaIncompatible on any other difference."""
    with translated_errors():
        catalog.create_namespace_if_not_exists(NAMESPACE)
        return [TableOutcome(table_name(dataset.name), _ensure(catalog, dataset)) for dataset in TABLES.values()]


def _ensure(catalog: Catalog, dataset: Dataset) -> str:
    name = table_name(dataset.name)
    if not catalog.table_exists(name):
        table = catalog.create_table(
            name, iceberg.table_schema(dataset), partition_spec=iceberg.partition_spec(dataset), properties=PROPERTIES
        )
        _sort(table, dataset)
        return "created"
    table = load_table(catalog, name)
    return "columns added" if _add_columns(table, dataset) else "present"


def _sort(table: Table, dataset: Dataset) -> None:
    with table.update_sort_order() as update:
        for column in dataset.sort:
            update.asc(column, transform=IdentityTransform())


def _add_columns(table: Table, dataset: Dataset) -> bool:
    wanted = iceberg.table_schema(dataset)
    current = table.schema()
    known = {field.field_id: field for field in current.fields}
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
    if missing:
        with table.update_schema() as update:
            update.union_by_name(wanted)
    return bool(missing)
