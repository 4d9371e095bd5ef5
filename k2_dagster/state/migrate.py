"""Bring the control schema to the version of this code."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, inspect, text

from k2_dagster.errors import DatabaseMismatch, NotInitialized
from k2_dagster.state.coverage_tables import metadata
from k2_dagster.state.database import Database
from k2_dagster.state.tables import SCHEMA

MIGRATIONS = Path(__file__).parent / "migrations"
# Any constant will do: two `k2 init` at once take turns.
MIGRATION_LOCK = 0x4B32_0001


def upgrade(database: Database) -> tuple[str | None, str]:
    """Migrate to the newest revision. Returns (revision before, revision now); equal when there was nothing to do.

    Raises DatabaseMismatch when a newer K2 has migrated it, or when tables are missing that were there.
    """
    with database.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        # under the lock: two of these at once would collide in PostgreSQL's own catalog in spite of "if not exists"
        connection.execute(text(f"create schema if not exists {SCHEMA}"))
        before = _revision(connection)
        _refuse_unknown(before)
        try:
            command.upgrade(_config(connection), "head")
        except CommandError as error:
            raise DatabaseMismatch(f"the control database cannot be migrated from {before}: {error}") from error
        _refuse_incomplete(connection)
        return before, _revision(connection) or ""


def has_schema(database: Database) -> bool:
    """Whether `k2 init` has ever made the control schema here, of whatever version."""
    with database.begin() as connection:
        return _revision(connection) is not None


def require_current(database: Database) -> None:
    """Raises NotInitialized when the schema is missing or of an older version, DatabaseMismatch when it is of a newer
    one or has lost tables."""
    wanted = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    with database.begin() as connection:
        found = _revision(connection)
        _refuse_unknown(found)
        if found != wanted:
            raise NotInitialized(
                f"the control database is at revision {found or 'none'}, this code needs {wanted}",
                advice="run `k2 init`",
            )
        _refuse_incomplete(connection)


def _refuse_unknown(revision: str | None) -> None:
    known = [one.revision for one in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]
    if revision is not None and revision not in known:
        raise DatabaseMismatch(
            f"the control database is at revision {revision}, which this version of K2 does not know (its newest: "
            f"{known[0]})",
            advice="a newer K2 has migrated it: install that version, or name another database in K2_CATALOG_URI",
            revision=revision,
        )


def _refuse_incomplete(connection: Connection) -> None:
    missing = {one.name for one in metadata.sorted_tables} - set(inspect(connection).get_table_names(SCHEMA))
    if missing:
        raise DatabaseMismatch(
            f"the control database has lost tables: {', '.join(f'{SCHEMA}.{name}' for name in sorted(missing))}",
            advice="restore it from a backup: made anew they would be empty, and the tables' history would be wrong",
            tables=sorted(missing),
        )


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA}).get_current_revision()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config
