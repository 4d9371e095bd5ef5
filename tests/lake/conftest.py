"""Real tables on the shared stack, and small ingest commits to them."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFile

from k2_dagster.lake.append import Append, Landed, fenced_append
from k2_dagster.lake.catalog import close_catalog, load_table, open_catalog
from k2_dagster.lake.fence import Rules, read_fence
from k2_dagster.lake.parquet import DataFiles, data_path
from k2_dagster.lake.tables import ensure_tables
from k2_dagster.schemas.arrow import table_schema
from k2_dagster.schemas.datasets import TABLES
from k2_dagster.settings import Settings
from k2_dagster.state.attempts import Attempt, LandedCommit, Range, insert_attempt, settle
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import upgrade

TABLE = "market_data.control"
DATASET = TABLES["control"]
RULES = Rules(100_001, "profile", "")
MORNING = datetime(2026, 1, 1, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Lake:
    """One writer's connections."""

    settings: Settings
    catalog: Catalog
    database: Database

    def file(self, exchange: str, rows: int, commit_id: str) -> DataFile:
        """A data file of control rows."""
        table = load_table(self.catalog, TABLE)
        filled = [
            {field.name: _value(field.name, exchange, at) for field in DATASET.fields if field.required}
            for at in range(rows)
        ]
        arrow = pa.Table.from_pylist(filled, schema=table_schema(DATASET))
        return DataFiles(table, DATASET).write(arrow, data_path(table, exchange, "2026-01-01", commit_id))

    def prepare(
        self, exchange: str, starts: Mapping[str, int | None], ends: Mapping[str, int], rows: int = 2
    ) -> Append:
        """Everything before the commit: file and attempt."""
        commit_id = str(uuid.uuid4())
        files = [self.file(exchange, rows, commit_id)] if rows else []
        insert_attempt(self.database, attempt(commit_id, exchange))
        stream = f"{exchange}/control"
        previous = read_fence(load_table(self.catalog, TABLE).metadata).heads.get(stream)
        return Append(TABLE, commit_id, stream, starts, ends, files, previous, RULES)

    def append(self, append: Append) -> Landed:
        return fenced_append(self.catalog, self.database, append)

    def settle(self, append: Append, landed: Landed) -> None:
        settle(self.database, TABLE, [LandedCommit(append.commit_id, landed.snapshot_id, landed.stamp)])

    def rows(self) -> int:
        return int(load_table(self.catalog, TABLE).scan().to_arrow().num_rows)


def attempt(commit_id: str, exchange: str, **others: Any) -> Attempt:
    """An attempt of the control table."""
    known: dict[str, Any] = {
        "id": commit_id,
        "table_name": TABLE,
        "exchange": exchange,
        "dataset": "control",
        "previous_id": None,
        "ranges": [Range("t", "id", 0, 0, 0, 2, 2, 2, 0, "0" * 16, "0" * 16)],
        "counts": {"rows": 2},
        "days": {"2026-01-01": 2},
        "schema_ids": [1],
        "rules_version": 1,
        "run_id": "test",
        "code_version": "0",
    }
    return Attempt(**{**known, **others})


def _value(name: str, exchange: str, at: int) -> Any:
    texts = {"exchange": exchange, "stream": "feed", "kind": "heartbeat", "symbol": "*", "origin": "live"}
    times = ("exchange_timestamp", "kafka_timestamp", "ingest_timestamp")
    return MORNING if name in times else texts.get(name, at)


@pytest.fixture
def lake(settings: Settings) -> Iterator[Lake]:
    """Tables and control schema, both empty."""
    database, catalog = Database(settings), open_catalog(settings)
    upgrade(database)
    ensure_tables(catalog)
    yield Lake(settings, catalog, database)
    close_catalog(catalog)
    database.close()


@pytest.fixture
def other(lake: Lake) -> Iterator[Lake]:
    """A second writer, with connections of its own."""
    database, catalog = Database(lake.settings), open_catalog(lake.settings)
    yield Lake(lake.settings, catalog, database)
    close_catalog(catalog)
    database.close()
