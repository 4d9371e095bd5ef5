"""How far readers of `commits` have come, table by table: what lies behind them may be merged."""

from collections.abc import Mapping

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.state.database import Database
from k2_dagster.state.tables import cursors

# Dagster's sensor, which counts each commit in one materialization.
MIRROR = "mirror"


def set_cursors(database: Database, reader: str, positions: Mapping[str, int]) -> None:
    """Put on record that a reader is done with everything up to these positions, by table. It may go back."""
    with database.begin() as connection:
        for table_name, position in positions.items():
            set_cursor(connection, reader, table_name, position)


def set_cursor(connection: Connection, reader: str, table_name: str, position: int) -> None:
    """The same for one table, in a transaction of the caller's."""
    fresh = insert(cursors).values(reader=reader, table_name=table_name, position=position)
    connection.execute(
        fresh.on_conflict_do_update(
            index_elements=["reader", "table_name"],
            set_={"position": position, "moved_at": func.now()},
            where=cursors.c.position != position,
        )
    )


def cursor_position(connection: Connection, reader: str, table_name: str) -> int | None:
    """Where a reader is; None when it has never said."""
    query = select(cursors.c.position).where(cursors.c.reader == reader, cursors.c.table_name == table_name)
    found = connection.execute(query).scalar()
    return None if found is None else int(found)
