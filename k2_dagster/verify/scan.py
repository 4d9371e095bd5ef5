"""The verification's own table reader: planned by PyIceberg, read by PyArrow, a piece of a file at a time."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.expressions import And, BooleanExpression, EqualTo
from pyiceberg.table import Table

from k2_dagster.errors import VerificationFailed
from k2_dagster.lake.catalog import translated_errors
from k2_dagster.schemas.arrow import table_schema
from k2_dagster.schemas.declaration import Dataset, FieldType

# Rows in memory at once, of one file.
BATCH_ROWS = 131_072


def scan(
    table: Table, dataset: Dataset, columns: Sequence[str], filters: Sequence[BooleanExpression]
) -> Iterator[pa.RecordBatch]:
    """Rows of the files that may match the filters (which choose files, not rows), with these columns in this order.

    Texts are dictionary-encoded. A column that a file does not have is null. Raises WarehouseUnavailable, and
    VerificationFailed for a table with deleted rows: K2's tables are append-only.
    """
    for path in _paths(table, filters):
        with translated_errors(), table.io.new_input(path).open() as stream:
            yield from _read(stream, dataset, columns)


def of_stream(exchange: str, dataset: str | None = None) -> list[BooleanExpression]:
    """Filters for one exchange and, in the quarantine table, one dataset."""
    filters: list[BooleanExpression] = [EqualTo(term="exchange", value=exchange)]
    return filters if dataset is None else [*filters, EqualTo(term="dataset", value=dataset)]


def _paths(table: Table, filters: Sequence[BooleanExpression]) -> list[str]:
    first, *others = filters
    wanted = And(first, *others) if others else first
    paths = []
    with translated_errors():
        for task in table.scan(row_filter=wanted).plan_files():
            if task.delete_files:
                raise VerificationFailed(
                    f"{'.'.join(table.name())} has delete files for {task.file.file_path}",
                    advice="another engine deleted rows; K2's tables are append-only",
                )
            paths.append(task.file.file_path)
    return paths


def _read(stream: object, dataset: Dataset, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    schema = table_schema(dataset)
    texts = [name for name in columns if dataset[name].type is FieldType.STRING]
    file = pq.ParquetFile(stream, read_dictionary=texts)
    there = set(file.schema_arrow.names)
    present = [name for name in columns if name in there]
    for batch in file.iter_batches(BATCH_ROWS, columns=present):
        arrays = [
            batch.column(name) if name in there else pa.nulls(batch.num_rows, schema.field(name).type)
            for name in columns
        ]
        yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
