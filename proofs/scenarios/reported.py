"""The ledger that a scenario left, in the form of `expected.py`: every column but those that differ from run to run."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, select

from k2_dagster.coverage.reading import Wanted, read_received
from k2_dagster.coverage.received import Received, received, together
from k2_dagster.state.coverage_tables import breakers, connections, gap_events, holds, resets
from k2_dagster.state.database import Database
from k2_dagster.state.tables import gaps
from k2_dagster.state.tracked import numbering_tables
from proofs.scenarios.ingesting import Landed
from proofs.scenarios.rows import Ledger, row

_OF_THE_RUN = {"id", "commit_id", "changed_at", "recorded_at", "opened_at", "acknowledged_at"}


def reported(database: Database, exchange: str, landed: Sequence[Landed]) -> Ledger:
    """Every table of the ledger, of one exchange."""
    with database.begin() as connection:
        out = {table.name: _rows(connection, table, exchange) for table in (gaps, resets, connections, breakers, holds)}
        out["gap_events"] = _events(connection, exchange)
        over = read_received(connection, Wanted(exchange=exchange))
    found = together([*(_running(exchange, one) for one in landed), over])
    out["intervals"] = _counted(found.intervals.to_pylist())
    out["holes"] = _counted(found.holes.to_pylist())
    return out


def _running(exchange: str, landed: Landed) -> Received:
    """What was received of sessions that go on: out of the tracker's state, as of a settled head."""
    return together(
        [
            received(exchange, landed.dataset, numbering, tables, is_open=True, symbol=None)
            for numbering, tables in numbering_tables(landed.state).items()
        ]
    )


def _rows(connection: Connection, table: Table, exchange: str) -> Counter[Any]:
    names = [column for column in table.columns if column.name not in _OF_THE_RUN]
    return _counted(connection.execute(select(*names).where(table.c.exchange == exchange)).mappings())


def _events(connection: Connection, exchange: str) -> Counter[Any]:
    query = (
        select(gaps, gap_events.c.event, gap_events.c.by, gap_events.c.note)
        .join(gap_events, gap_events.c.gap_id == gaps.c.id)
        .where(gaps.c.exchange == exchange)
    )
    return Counter(
        row(
            gap=(one.numbering, one.session, one.channel or one.symbol, one.first_sequence),
            dataset=one.dataset,
            event=one.event,
            by=one.by,
            note=one.note,
        )
        for one in connection.execute(query)
    )


def _counted(rows: Iterable[Mapping[Any, Any]]) -> Counter[Any]:
    return Counter(row(**one) for one in rows)
