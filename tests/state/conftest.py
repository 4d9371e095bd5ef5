"""A control database of a test's own."""

from collections.abc import Iterator

import pytest

from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import upgrade


@pytest.fixture
def empty_database(settings: Settings) -> Iterator[Database]:
    """Without the control schema."""
    database = Database(settings)
    yield database
    database.close()


@pytest.fixture
def database(empty_database: Database) -> Database:
    """With the control schema."""
    upgrade(empty_database)
    return empty_database
