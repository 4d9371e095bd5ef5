"""Alembic's entry: runs the migrations on the connection that `k2_dagster.state.migrate` hands over."""

from alembic import context
from sqlalchemy import Connection

from k2_dagster.state.coverage_tables import metadata
from k2_dagster.state.tables import SCHEMA


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table_schema=SCHEMA,
        include_schemas=True,
        transactional_ddl=True,
    )
    context.run_migrations()


_run(context.config.attributes["connection"])
