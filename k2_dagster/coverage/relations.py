"""The ledger as tables that SQL can ask, read from the control database when a query names them."""

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
from sqlalchemy import BigInteger, Connection, DateTime, Integer, Select, String, Table, select

from k2_dagster.coverage.reading import one_look, read_received
from k2_dagster.coverage.received import MICROS
from k2_dagster.state.coverage_tables import connections, holds, resets
from k2_dagster.state.database import Database
from k2_dagster.state.tables import gaps

_TYPES: Mapping[type, pa.DataType] = {
    String: pa.string(),
    BigInteger: pa.int64(),
    Integer: pa.int32(),
    DateTime: MICROS,
}


def read_relations(database: Database, names: Sequence[str]) -> dict[str, pa.Table]:
    """The relations of these names (keys of RELATIONS), all as of one moment. Raises like `Database.begin`."""
    with one_look(database) as connection:
        return {name: RELATIONS[name](connection) for name in names}


def _coverage(connection: Connection) -> pa.Table:
    return read_received(connection).intervals


def _rows(table: Table, query: Select[tuple[object, ...]]) -> Callable[[Connection], pa.Table]:
    schema = pa.schema([(column.name, _TYPES[type(column.type)]) for column in table.columns])

    def read(connection: Connection) -> pa.Table:
        return pa.Table.from_pylist([dict(row) for row in connection.execute(query).mappings()], schema=schema)

    return read


RELATIONS: Mapping[str, Callable[[Connection], pa.Table]] = {
    "coverage": _coverage,
    "gaps": _rows(gaps, select(gaps).order_by(gaps.c.id)),
    # the first session that a feed handler names is on record, and is no reset
    "resets": _rows(resets, select(resets).where(resets.c.previous_session.is_not(None)).order_by(resets.c.id)),
    "connections": _rows(connections, select(connections).order_by(connections.c.id)),
    "holds": _rows(holds, select(holds).order_by(holds.c.id)),
}
