"""A warehouse in memory (moto): what else must go when its objects go, and how it is noticed that they have gone."""

import contextlib
import shutil
from pathlib import Path

import psycopg2
import psycopg2.errors

from k2_dagster.devstack.postgres import PostgresServer
from k2_dagster.devstack.s3 import MOTO, S3Server
from k2_dagster.devstack.state import StackState
from k2_dagster.errors import StackFailed

CATALOG_DATABASE = "k2"


def keeps_objects_in_memory(state: StackState) -> bool:
    """Whether the end of the S3 server is the end of its objects."""
    return state.s3 and state.s3_program == MOTO


def forget_databases(home: Path, state: StackState) -> None:
    """Remove the databases of a stack whose PostgreSQL does not run. Positions are in the tables, which are gone; what
    the catalog, `k2.commits` and Dagster's storage say of them would be wrong from now on."""
    data = PostgresServer(home, state).data
    if data.exists():
        shutil.rmtree(data)


def refuse_lost_objects(home: Path, state: StackState) -> None:
    """Raise StackFailed when the catalog names tables whose files the S3 server has lost, as it was killed."""
    if not keeps_objects_in_memory(state):
        return
    named = _metadata_files(PostgresServer(home, state))
    server = S3Server(home, state)
    lost = [location for location in named if location.startswith("s3://") and not server.has(location)]
    if lost:
        raise StackFailed(
            f"the S3 server (moto) was killed and has lost its objects: the catalog names {len(named)} tables, "
            f"the files of {len(lost)} are gone",
            advice="`k2 dev down` takes the databases along; `k2 dev up` and `k2 init` then start anew, and everything "
            "that Kafka retains lands again",
        )


def _metadata_files(server: PostgresServer) -> list[str]:
    try:
        with contextlib.closing(server.connect(CATALOG_DATABASE)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT metadata_location FROM iceberg_tables")
            return [str(row[0]) for row in cursor.fetchall()]
    except psycopg2.errors.UndefinedTable:
        return []
    except psycopg2.Error as error:
        raise StackFailed(f"the catalog cannot be read: {error}") from error
