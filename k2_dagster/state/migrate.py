"""Bring the control schema to the version of this code."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from k2_dagster.errors import NotInitialized
from k2_dagster.state.database import Database
from k2_dagster.state.tables import SCHEMA

MIGRATIONS = Path(__file__).parent / "migrations"
# Any constant will do: two `k2 init` at once take turns.
MIGRATION_LOCK = 0x4B32_0001


def upgrade(database: Database) -> tuple[str | None, str]:
    """Migrate to the newest revision. Returns (revision before, revision now); equal when there was nothing to do."""
    with database.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        # under the lock: two of these at once would collide in PostgreSQL's own catalog in spite of "if not exists"
        connection.execute(text(f"create schema if not exists {SCHEMA}"))
        before = _revision(connection)
        command.upgrade(_config(connection), "head")
        return before, _revision(connection) or ""


def require_current(database: Database) -> None:
    """Raises NotInitialized when the schema is missing or of another version."""
    with database.begin() as connection:
        found = _revision(connection)
    wanted = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    if found != wanted:
        raise NotInitialized(
            f"the control database is at revision {found or 'none'}, this code needs {wanted}", advice="run `k2 init`"
        )


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA}).get_current_revision()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config
