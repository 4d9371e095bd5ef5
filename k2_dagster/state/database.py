"""The control database: one connection pool, one transaction helper, one translation of errors."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from k2_dagster.errors import (
    TRY_ADDRESS,
    ConfigurationError,
    DatabaseRefused,
    DatabaseUnavailable,
    K2Error,
    NotInitialized,
)
from k2_dagster.observability.stopping import NEVER
from k2_dagster.settings import Settings
from k2_dagster.state.engine import make_engine

_UNDEFINED_TABLE = "42P01"
_UNDEFINED_SCHEMA = "3F000"
# A server that refuses a connection gives no code, only these words (in English, its default).
_REFUSALS = (
    (re.compile(r'database ".*" does not exist'), "create the database there (`CREATE DATABASE`), or name another"),
    (re.compile(r'role ".*" does not exist'), "create the role there, or name another in the address"),
    (re.compile(r"password authentication failed|no password supplied"), "correct user and password in the address"),
)


class Database:
    """Connections to the control schema `k2`. Thread-safe; close it when done."""

    def __init__(self, settings: Settings, stop: threading.Event = NEVER) -> None:
        """Once `stop` is set, nothing here waits for longer than a moment: see `state/engine.py`."""
        self.stop = stop
        self.engine: Engine = make_engine(settings.catalog_uri.get_secret_value(), stop)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at the end, rolled back by an exception.

        Raises DatabaseUnavailable when PostgreSQL does not answer, DatabaseRefused when it does not take a value, and
        NotInitialized when the schema is missing.
        """
        with translated_errors(), self.engine.begin() as connection:
            yield connection

    def answer(self) -> str:
        """The server's version: proof that it is there."""
        with self.begin() as connection:
            return str(connection.execute(text("show server_version")).scalar_one())

    def close(self) -> None:
        """Give every connection back to the server."""
        self.engine.dispose()


@contextmanager
def translated_errors() -> Iterator[None]:
    """SQLAlchemy's errors as ours: away, missing schema, or a value that PostgreSQL does not take."""
    try:
        yield
    except (DBAPIError, PoolTimeoutError) as error:
        raise translate(error, "PostgreSQL") from error


def translate(error: DBAPIError | PoolTimeoutError, who: str) -> K2Error:
    """The K2 error for one of SQLAlchemy's."""
    if isinstance(error, PoolTimeoutError):
        return DatabaseUnavailable(f"{who}: every connection of this process is busy", advice="see its log")
    first_line = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    if getattr(error.orig, "pgcode", None) in (_UNDEFINED_TABLE, _UNDEFINED_SCHEMA):
        return NotInitialized("the control database has no K2 schema", advice="run `k2 init`")
    if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
        return _unavailable(first_line, who)
    kind = "statement" if isinstance(error, ProgrammingError) else "value"
    return DatabaseRefused(f"{who} refused a {kind}: {first_line}", advice="a defect of K2: report it with the log")


def _unavailable(first_line: str, who: str) -> K2Error:
    """The error for a server that cannot be reached, or that refuses the address as it is."""
    for words, advice in _REFUSALS:
        if words.search(first_line):
            return ConfigurationError(f"{who}: {first_line}", advice=advice)
    return DatabaseUnavailable(f"{who}: {first_line}", advice=TRY_ADDRESS)
