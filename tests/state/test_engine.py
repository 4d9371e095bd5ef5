"""Waits for PostgreSQL end: when it does not answer, and soon after a stop."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from sqlalchemy import text

from k2_dagster.errors import DatabaseRefused, DatabaseUnavailable
from k2_dagster.lake.catalog import open_catalog
from k2_dagster.settings import Settings
from k2_dagster.state import engine
from k2_dagster.state.database import Database

# What a limit of a fraction of a second may cost on a busy machine.
SOON_SECONDS = 5.0


@pytest.fixture
def mute_server() -> Iterator[str]:
    """A server that accepts connections and says nothing; its URI."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"postgresql+psycopg2://k2@127.0.0.1:{server.getsockname()[1]}/k2"


def failing(call: Callable[[], object]) -> tuple[str, float]:
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable) as failed:
        call()
    return failed.value.message, time.monotonic() - began


def with_uri(settings: Settings, uri: str) -> Settings:
    return settings.model_copy(update={"catalog_uri": type(settings.catalog_uri)(uri)})


def test_a_connection_that_is_not_answered_is_given_up(mute_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CONNECT_TIMEOUT_SECONDS", 0.3)
    settings = with_uri(Settings(), mute_server)
    with closing(Database(settings)) as database:
        message, seconds = failing(database.answer)
    assert "no connection within 0.3 s" in message
    assert seconds < SOON_SECONDS
    assert failing(lambda: open_catalog(settings))[1] < SOON_SECONDS


def test_a_limit_of_the_uri_is_kept(mute_server: str) -> None:
    with closing(Database(with_uri(Settings(), f"{mute_server}?connect_timeout=1"))) as database:
        assert "no connection within 1 s" in failing(database.answer)[0]


def test_after_a_stop_one_silence_is_enough(mute_server: str) -> None:
    stop = threading.Event()
    stop.set()
    with closing(Database(with_uri(Settings(), mute_server), stop)) as database:
        message, seconds = failing(database.answer)
        assert "asked to stop" in message
        assert engine.STOPPING_TIMEOUT_SECONDS <= seconds < engine.CONNECT_TIMEOUT_SECONDS
        _, again = failing(database.answer)
        assert again < engine.STOPPING_TIMEOUT_SECONDS


@pytest.mark.stack
def test_a_statement_that_is_not_answered_is_given_up_and_its_connection_with_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "ANSWER_TIMEOUT_SECONDS", 0.3)
    with closing(Database(settings)) as database:
        with database.begin() as connection:
            used = connection.execute(text("select pg_backend_pid()")).scalar_one()
        message, seconds = failing(lambda: sleep(database, 20))
        assert "no answer within 0.3 s" in message
        assert seconds < SOON_SECONDS
        with database.begin() as connection:
            assert connection.execute(text("select pg_backend_pid()")).scalar_one() != used


@pytest.mark.stack
def test_a_stop_ends_a_statement_that_is_under_way(settings: Settings) -> None:
    stop = threading.Event()
    with closing(Database(settings, stop)) as database:
        threading.Timer(0.5, stop.set).start()
        message, seconds = failing(lambda: sleep(database, 20))
    assert "asked to stop" in message
    assert seconds < SOON_SECONDS


@pytest.mark.stack
def test_a_stop_cuts_no_statement_that_is_answered(settings: Settings) -> None:
    stop = threading.Event()
    stop.set()
    with closing(Database(settings, stop)) as database:
        sleep(database, engine.STOPPING_TIMEOUT_SECONDS / 4)
        assert database.answer()


@pytest.mark.stack
def test_server_side_limits_and_the_name_of_the_process_are_set_on_both_engines(settings: Settings) -> None:
    catalog = open_catalog(settings)
    with closing(Database(settings)) as database:
        for one in (database.engine, catalog.engine):  # type: ignore[attr-defined]
            with one.begin() as connection:
                shown = {
                    name: connection.execute(text(f"show {name}")).scalar_one()
                    for name in ("statement_timeout", "timezone", "application_name")
                }
            assert shown["statement_timeout"] == f"{engine.STATEMENT_TIMEOUT_SECONDS}s"
            assert shown["timezone"] == "UTC"
            assert shown["application_name"].startswith(f"k2 {socket.gethostname()}"[:20])
    catalog.close()


@pytest.mark.stack
def test_what_postgresql_refuses_and_a_pool_that_is_used_up_are_errors_of_ours(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "POOL_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(engine, "POOL_CONNECTIONS", 1)
    monkeypatch.setattr(engine, "POOL_OVERFLOW", 0)
    with closing(Database(settings)) as database:
        for refused in ('select cast(\'{"a": "\\u0000"}\' as jsonb)', "select 1 / 0", "selekt"):
            with pytest.raises(DatabaseRefused), database.begin() as connection:
                connection.execute(text(refused.replace(":", "\\:")))
        with database.begin(), pytest.raises(DatabaseUnavailable, match="busy"), database.begin():
            pass


def sleep(database: Database, seconds: float) -> None:
    with database.begin() as connection:
        connection.execute(text("select pg_sleep(:seconds)"), {"seconds": seconds})
