"""Iceberg tables in a folder of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyiceberg.catalog.sql import SqlCatalog

from k2_dagster.lake.tables import ensure_tables
from k2_dagster.settings import Settings
from tests.query.lake import Lake, tick


@pytest.fixture
def empty_lake(tmp_path: Path) -> Iterator[Lake]:
    """The declared tables without rows."""
    yield from _lake(tmp_path)


@pytest.fixture
def fresh_lake(empty_lake: Lake) -> Lake:
    """Two exchanges, three symbols and four days of ticks: a file per exchange and day. For one test to change."""
    return _filled(empty_lake)


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """The same rows as `fresh_lake`, for tests that only read."""
    for one in _lake(tmp_path_factory.mktemp("lake")):
        yield _filled(one)


def _lake(folder: Path) -> Iterator[Lake]:
    catalog = SqlCatalog("k2", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}/warehouse")
    ensure_tables(catalog)
    yield Lake(catalog, Settings(home=folder / "home", query_memory_megabytes=500, query_temp_megabytes=50))
    catalog.close()


def _filled(lake: Lake) -> Lake:
    for day in range(4):
        rows = [
            tick(symbol, exchange=exchange, day=day, second=second, sequence=second)
            for exchange in ("alpha", "beta")
            for second, symbol in enumerate(("AAPL", "MSFT", "ZM"))
        ]
        lake.append("ticks", rows)
    return lake
