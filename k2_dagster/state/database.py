"""The control database: one connection pool, one transaction helper, one translation of errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError

from k2_dagster.errors import TRY_ADDRESS, ConfigurationError, DatabaseUnavailable, K2Error, NotInitialized
from k2_dagster.settings import Settings

# A statement of ours that takes longer than this is stuck behind a lock that somebody holds.
STATEMENT_TIMEOUT_SECONDS = 30
CONNECT_TIMEOUT_SECONDS = 5
# One connection holds a commit lock while another writes; a few more serve status commands.
POOL_CONNECTIONS = 5

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

    def __init__(self, settings: Settings) -> None:
        self.engine: Engine = create_engine(
            settings.catalog_uri.get_secret_value(),
            pool_size=POOL_CONNECTIONS,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "options": f"-c statement_timeout={STATEMENT_TIMEOUT_SECONDS * 1000} -c timezone=UTC",
                "application_name": "k2",
            },
        )

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at the end, rolled back by an exception.

        Raises DatabaseUnavailable when PostgreSQL does not answer and NotInitialized when the schema is missing.
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
    """SQLAlchemy's errors as ours: away or missing schema; a programming error stays what it is."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise _translate(error) from error
    except ProgrammingError as error:
        raise _translate(error) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise _translate(error) from error
        raise


def _translate(error: DBAPIError) -> K2Error | DBAPIError:
    code = getattr(error.orig, "pgcode", None)
    if code in (_UNDEFINED_TABLE, _UNDEFINED_SCHEMA):
        return NotInitialized("the control database has no K2 schema", advice="run `k2 init`")
    if isinstance(error, ProgrammingError):
        return error
    return unavailable(error, "PostgreSQL")


def unavailable(error: DBAPIError, what: str) -> K2Error:
    """The error for a server that cannot be reached, or that refuses the address as it is."""
    first_line = str(error.orig).strip().splitlines()[0] if error.orig else str(error)
    for words, advice in _REFUSALS:
        if words.search(first_line):
            return ConfigurationError(f"{what}: {first_line}", advice=advice)
    return DatabaseUnavailable(f"{what}: {first_line}", advice=TRY_ADDRESS)
