"""One partition of a table as a list of Parquet files that DuckDB can read, from one pinned snapshot (DESIGN D14)."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from dagster_duckdb import DuckDBResource
from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, LessThan
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from k2_dagster.errors import QueryRefused
from k2_dagster.lake.catalog import load_table, translated_errors
from k2_dagster.resources.platform import Platform
from k2_dagster.schemas.datasets import TABLES, table_name
from k2_dagster.settings import Settings

FILE_SCHEME = "file://"
# Parts of one file that are copied at a time from object storage.
COPY_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PartitionFiles:
    """The data files of one (exchange, day), as paths on this machine, with the table that they were planned from."""

    table: Table
    paths: list[str]
    rows: int
    bytes: int


def duckdb_resource(settings: Settings) -> DuckDBResource:
    """DuckDB in memory, bounded as the settings say; what does not fit goes to a temporary folder of its own."""
    return DuckDBResource(
        database=":memory:",
        connection_config={
            "memory_limit": f"{settings.query_memory_megabytes}MB",
            "threads": settings.query_threads,
            "temp_directory": str(Path(tempfile.gettempdir()) / "k2-duckdb"),
        },
    )


@contextmanager
def partition_files(platform: Platform, dataset: str, exchange: str, day: str) -> Iterator[PartitionFiles]:
    """Plan one partition with PyIceberg. Files on object storage are copied to a folder for the time of the block.

    Raises NotInitialized, QueryRefused (the table has delete files), WarehouseUnavailable, DatabaseUnavailable.
    """
    table = load_table(platform.catalog, table_name(dataset))
    files = _plan(table, TABLES[dataset].partition_time, exchange, day)
    with tempfile.TemporaryDirectory(prefix="k2-partition-") as folder:
        with translated_errors():
            paths = [_local(table, one, Path(folder) / f"{number}.parquet") for number, one in enumerate(files)]
        rows, size = sum(one.record_count for one in files), sum(one.file_size_in_bytes for one in files)
        yield PartitionFiles(table, paths, rows, size)


def _plan(table: Table, time_column: str, exchange: str, day: str) -> list[DataFile]:
    start = datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)
    of_day = And(
        EqualTo(term="exchange", value=exchange),
        And(
            GreaterThanOrEqual(term=time_column, value=start.isoformat()),
            LessThan(term=time_column, value=(start + timedelta(days=1)).isoformat()),
        ),
    )
    with translated_errors():
        tasks = list(table.scan(row_filter=of_day).plan_files())
    if any(task.delete_files for task in tasks):
        raise QueryRefused(
            f"{'.'.join(table.name())} has delete files for {exchange} {day}: its Parquet files are not its rows",
            advice="K2's tables are append-only; find out which engine deleted rows",
        )
    return [task.file for task in tasks]


def _local(table: Table, file: DataFile, copy: Path) -> str:
    if file.file_path.startswith(FILE_SCHEME) or file.file_path.startswith("/"):
        return file.file_path.removeprefix(FILE_SCHEME)
    with table.io.new_input(file.file_path).open() as source, copy.open("wb") as target:
        while block := source.read(COPY_BYTES):
            target.write(block)
    return str(copy)
