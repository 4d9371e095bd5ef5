"""A PostgreSQL that is thrown away, with the control schema."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from k2_dagster.devstack.postgres import PostgresServer, choose_socket_folder
from k2_dagster.devstack.process import stop
from k2_dagster.devstack.state import StackState
from k2_dagster.settings import Settings, load_settings
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import upgrade
from proofs.common import say

NAME = "scenarios"


@contextmanager
def throwaway_database() -> Iterator[Database]:
    """A server of its own, in a temporary folder that is removed at the end."""
    # Short, because a socket lives in it
    home = Path(tempfile.mkdtemp(prefix="k2-scenarios-"))
    socket_folder = choose_socket_folder(home)
    server = PostgresServer(home, StackState(1, False, "", {}, str(socket_folder)))
    try:
        server.ensure(say)
        server.create_database(NAME)
        with control_database(load_settings({"K2_HOME": str(home), "K2_CATALOG_URI": server.uri(NAME)})) as database:
            yield database
    finally:
        process = server.find()
        if process is not None:
            stop(process, server.purge_signals)
        for folder in (home, socket_folder):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def control_database(settings: Settings) -> Iterator[Database]:
    """The database of these settings, migrated. Nothing in it needs to survive a power failure."""
    database = Database(settings)
    try:
        upgrade(database)
        with database.begin() as connection:
            name = connection.execute(text("select current_database()")).scalar_one()
            connection.execute(text(f'alter database "{name}" set synchronous_commit = off'))
        database.engine.dispose()
        yield database
    finally:
        database.close()
