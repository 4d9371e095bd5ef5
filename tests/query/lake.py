"""Real Iceberg tables in a folder, made from the declarations, with rows that a test can describe in a line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
)
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _FastAppendFiles

from k2_dagster.query.engine import QueryEngine
from k2_dagster.schemas.arrow import table_schema
from k2_dagster.schemas.datasets import TABLES, table_name
from k2_dagster.schemas.declaration import FieldType
from k2_dagster.settings import Settings

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
_DEFAULTS: Mapping[FieldType, Any] = {
    FieldType.STRING: "x",
    FieldType.LONG: 1,
    FieldType.INT: 1,
    FieldType.TIMESTAMP: START,
    FieldType.PRICE: Decimal("1.5"),
    FieldType.SIZE: Decimal("2.5"),
    FieldType.STRINGS: [],
    FieldType.LEVELS: [],
    FieldType.BINARY: b"",
    FieldType.HEADERS: [],
}


@dataclass(frozen=True)
class Lake:
    """A catalog with the declared tables."""

    catalog: SqlCatalog
    settings: Settings

    def append(self, dataset: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """One commit. What a row does not say is null, or a constant where the column is required."""
        table = self.catalog.load_table(table_name(dataset))
        complete = [filled(dataset, row) for row in rows]
        table.append(pa.Table.from_pylist(complete, schema=table_schema(TABLES[dataset])))

    def engine(self) -> QueryEngine:
        """An engine on these tables."""
        return QueryEngine(self.settings, self.catalog)

    def ask(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """The answer's rows."""
        return [tuple(row.values()) for row in self.engine().query(sql, parameters).to_pylist()]


def filled(dataset: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with every column of the dataset."""
    return {
        field.name: row.get(field.name, _DEFAULTS[field.type] if field.required else None)
        for field in TABLES[dataset].fields
    }


def tick(symbol: str, *, exchange: str = "alpha", day: int = 0, second: int = 0, **others: Any) -> dict[str, Any]:
    """A row of ticks on the given day after 1 March 2026, noon."""
    when = START + timedelta(days=day, seconds=second)
    return {"exchange": exchange, "symbol": symbol, "exchange_timestamp": when, "side": "buy", **others}


class _DeleteManifestWriter(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


class _AppendDeletes(_FastAppendFiles):
    """A commit of position-delete files, which PyIceberg reads but does not write."""

    def _manifests(self) -> list[ManifestFile]:
        metadata = self._transaction.table_metadata
        writer = _DeleteManifestWriter(
            metadata.spec(), metadata.schema(), self.new_manifest_output(), self._snapshot_id, "deflate"
        )
        with writer:
            for file in self._added_data_files:
                entry = ManifestEntry.from_args(
                    status=ManifestEntryStatus.ADDED, snapshot_id=self._snapshot_id, data_file=file
                )
                writer.add(entry)
        return [writer.to_manifest_file(), *self._existing_manifests()]


def add_position_deletes(lake: Lake, name: str = "market_data.ticks") -> None:
    """Delete the first row of one file of the table, as other engines do."""
    table = lake.catalog.load_table(name)
    data = next(iter(table.scan().plan_files())).file
    path = f"{table.location()}/data/deletes.parquet"
    ids = {"file_path": 2147483546, "pos": 2147483545}
    rows = pa.table({"file_path": [data.file_path], "pos": [0]})
    fields = [field.with_metadata({"PARQUET:field_id": str(ids[field.name])}) for field in rows.schema]
    with table.io.new_output(path).create() as stream:
        pq.write_table(rows.cast(pa.schema(fields)), stream)
    deletes = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=data.partition,
        record_count=1,
        file_size_in_bytes=len(table.io.new_input(path)),
        spec_id=data.spec_id,
    )
    with table.transaction() as transaction:
        append = _AppendDeletes(Operation.APPEND, transaction, table.io)
        append.append_data_file(deletes)
        append.commit()
