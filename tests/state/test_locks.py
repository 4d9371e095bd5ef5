"""The commit lock: one at a time, named with its holder when it cannot be had, and no obstacle to a stop."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from k2_dagster.errors import DatabaseUnavailable
from k2_dagster.settings import Settings
from k2_dagster.state import locks
from k2_dagster.state.database import Database
from k2_dagster.state.locks import table_lock

pytestmark = pytest.mark.stack

# Names whose keys are negative and positive: PostgreSQL shows them in two halves without a sign.
TABLES = ("market_data.ticks", "market_data.quotes", "market_data.book", "market_data.control", "x", "y")


@pytest.fixture
def other(settings: Settings) -> Iterator[Database]:
    """A second process, as it were."""
    database = Database(settings, threading.Event())
    yield database
    database.close()


@pytest.mark.parametrize("table", TABLES)
def test_a_lock_that_cannot_be_had_is_named_with_its_holder(
    empty_database: Database, other: Database, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT_SECONDS", 0.2)
    with (
        table_lock(empty_database, table),
        pytest.raises(DatabaseUnavailable, match=f"lock k2:commit:{table}.*:{os.getpid()} "),
        table_lock(other, table),
    ):
        pass
    with table_lock(other, table):  # free again
        pass


def test_a_stop_ends_the_wait(empty_database: Database, other: Database) -> None:
    threading.Timer(0.3, other.stop.set).start()
    began = time.monotonic()
    with (
        table_lock(empty_database, "t"),
        pytest.raises(DatabaseUnavailable, match="before this process was asked to stop"),
        table_lock(other, "t"),
    ):
        pass
    assert time.monotonic() - began < locks.LOCK_TIMEOUT_SECONDS / 2


def test_a_lock_that_is_free_is_had_in_spite_of_a_stop(other: Database) -> None:
    other.stop.set()
    with table_lock(other, "t"):
        pass


def test_only_one_holds_it_at_a_time(empty_database: Database) -> None:
    inside, most = 0, 0

    def work(_: int) -> None:
        nonlocal inside, most
        with table_lock(empty_database, "t"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(20)))
    assert most == 1
