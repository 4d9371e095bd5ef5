"""Telling the control database which commits are counted in materializations: only those may be merged (thinning)."""

from collections.abc import Mapping

from k2_dagster.schemas.datasets import TABLES, table_name
from k2_dagster.state.cursors import MIRROR, set_cursors
from k2_dagster.state.database import Database


def tell_reported(database: Database, read: Mapping[str, int], waiting: Mapping[tuple[str, str, str], int]) -> None:
    """`read` and `waiting` are those of a cursor that Dagster has saved: no later tick begins before it.

    `read` is the last position read of each table, `waiting` the first unreported one of each partition
    (dataset, exchange, day). A cursor that was lost begins anew, and so does what is told.
    """
    done = {table_name(dataset): read.get(table_name(dataset), 0) for dataset in TABLES}
    for (dataset, _, _), position in waiting.items():
        done[table_name(dataset)] = min(done[table_name(dataset)], position - 1)
    set_cursors(database, MIRROR, done)
