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
    delta = {field.name: "DELTA_BINARY_PACKED" for field in dataset.fields if field.type in _DELTA}
    return Layout(dictionary, delta)


def write_data_file(table: Table, dataset: Dataset, rows: pa.Table, path: str) -> DataFile:
    """Write rows (one partition, sorted, with field ids in the schema) and describe the file for a commit.

    Raises WarehouseUnavailable; a file that was not finished is garbage that nothing refers to.
    """
    layout = layout_of(dataset)
    collected: list[pq.FileMetaData] = []
    with translated_errors():
        output = table.io.new_output(path)
        with (
            output.create(overwrite=False) as stream,
            pq.ParquetWriter(
                stream,
                rows.schema,
                compression="zstd",
                use_dictionary=layout.dictionary,
                column_encoding=layout.encodings,
                store_schema=False,
                store_decimal_as_integer=True,
                write_batch_size=WRITE_BATCH_ROWS,
                max_rows_per_page=ROW_GROUP_ROWS,
                metadata_collector=collected,
            ) as writer,
        ):
            writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
        return _describe(table, collected[0], path, len(output))


def _describe(table: Table, metadata: pq.FileMetaData, path: str, size_bytes: int) -> DataFile:
    schema = table.schema()
    statistics = data_file_statistics_from_parquet_metadata(
        parquet_metadata=metadata,
        stats_columns=compute_statistics_plan(schema, table.metadata.properties),
        parquet_column_mapping=parquet_path_to_id_mapping(schema),
    )
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=statistics.partition(table.metadata.spec(), schema),
        file_size_in_bytes=size_bytes,
        sort_order_id=None,
        spec_id=table.metadata.default_spec_id,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )


def data_path(table: Table, exchange: str, day: str, name: str) -> str:
    """Path of a new data file, under the table's location."""
    return f"{table.location().rstrip('/')}/data/exchange={exchange}/day={day}/{name}.parquet"
