"""Parquet files laid out for readers (DESIGN D9): small row groups, delta-encoded numbers, dictionary-encoded texts.

PyIceberg's writer offers none of this, so the files are written with PyArrow and handed to the table as data files.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table

from k2_dagster.lake.catalog import translated_errors
from k2_dagster.schemas.declaration import Dataset, FieldType

# A row group is what a reader can skip: small enough to skip often, large enough to compress (DESIGN D9).
ROW_GROUP_ROWS = 131_072
WRITE_BATCH_ROWS = 65_536
_DELTA = (FieldType.LONG, FieldType.INT, FieldType.TIMESTAMP)
_DICTIONARY = (FieldType.STRING, FieldType.PRICE, FieldType.SIZE)
# What ingest says of a whole batch or topic-partition stays the same for thousands of rows: compression alone makes
# nothing of it, and any encoding before would only cost.
_STRETCHES = ("ingest_timestamp", "topic_epoch", "kafka_partition", "schema_id", "rules_version")
# Texts that differ on nearly every row: a dictionary would only be built to be thrown away.
_UNIQUE_TEXTS = ("trade_id", "refers_to", "detail")


@dataclass(frozen=True, slots=True)
class Layout:
    """How the columns of a dataset are encoded."""

    dictionary: list[str]
    encodings: dict[str, str]


def layout_of(dataset: Dataset) -> Layout:
    """Dictionary for repeated values, delta for numbers, plain for the rest."""
    dictionary = [
        field.name for field in dataset.fields if field.type in _DICTIONARY and field.name not in _UNIQUE_TEXTS
    ]
    delta = [field.name for field in dataset.fields if field.type in _DELTA and field.name not in _STRETCHES]
    return Layout(dictionary, dict.fromkeys(delta, "DELTA_BINARY_PACKED"))


def without_needless_levels(rows: pa.Table) -> pa.Table:
    """The rows with columns required where no value is missing: such a column needs no level for each of its values.

    Readers go by the table's schema, where an optional column may be required in a file.
    """
    fields = [
        field.with_nullable(column.null_count > 0) for field, column in zip(rows.schema, rows.columns, strict=True)
    ]
    return pa.Table.from_arrays(rows.columns, schema=pa.schema(fields))


class DataFiles:
    """Writes data files of one table."""

    def __init__(self, table: Table, dataset: Dataset) -> None:
        schema = table.schema()
        self._table = table
        self._schema = schema
        self._layout = layout_of(dataset)
        # what to tell of which column takes as long to find out as a small file to write
        self._statistics = compute_statistics_plan(schema, table.metadata.properties)
        self._columns = parquet_path_to_id_mapping(schema)

    def write(self, rows: pa.Table, path: str) -> DataFile:
        """Write rows (one partition, sorted, with field ids in the schema) and describe the file for a commit.

        Raises WarehouseUnavailable; a file that was not finished is garbage that nothing refers to.
        """
        collected: list[pq.FileMetaData] = []
        rows = without_needless_levels(rows)
        with translated_errors():
            output = self._table.io.new_output(path)
            with (
                output.create(overwrite=False) as stream,
                pq.ParquetWriter(
                    stream,
                    rows.schema,
                    compression="zstd",
                    use_dictionary=self._layout.dictionary,
                    column_encoding=self._layout.encodings,
                    store_schema=False,
                    store_decimal_as_integer=True,
                    write_batch_size=WRITE_BATCH_ROWS,
                    max_rows_per_page=ROW_GROUP_ROWS,
                    metadata_collector=collected,
                ) as writer,
            ):
                writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
            return self._describe(collected[0], path, len(output))

    def _describe(self, metadata: pq.FileMetaData, path: str, size_bytes: int) -> DataFile:
        statistics = data_file_statistics_from_parquet_metadata(
            parquet_metadata=metadata,
            stats_columns=self._statistics,
            parquet_column_mapping=self._columns,
        )
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=path,
            file_format=FileFormat.PARQUET,
            partition=statistics.partition(self._table.metadata.spec(), self._schema),
            file_size_in_bytes=size_bytes,
            sort_order_id=None,
            spec_id=self._table.metadata.default_spec_id,
            equality_ids=None,
            key_metadata=None,
            **statistics.to_serialized_dict(),
        )


def data_path(table: Table, exchange: str, day: str, name: str) -> str:
    """Path of a new data file, under the table's location."""
    return f"{table.location().rstrip('/')}/data/exchange={exchange}/day={day}/{name}.parquet"
