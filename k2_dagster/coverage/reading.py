"""What was received, out of the control database: the state of each stream's settled head, and what is over."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, select, text

from k2_dagster.coverage.received import Received, received, together
from k2_dagster.state.coverage_tables import coverage
from k2_dagster.state.database import Database
from k2_dagster.state.frames import unframed
from k2_dagster.state.tables import attempts, commits
from k2_dagster.state.tracked import numbering_tables


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read; None is any. Intervals that are over by `since`, or begin at `until` or later, may be left out."""

    exchange: str | None = None
    dataset: str | None = None
    symbol: str | None = None
    since: datetime | None = None
    until: datetime | None = None


EVERYTHING = Wanted()


@contextmanager
def one_look(database: Database) -> Iterator[Connection]:
    """A transaction that sees the database as it is at one moment: an interval that is just being closed is in one
    place, not in two or none. Raises like `Database.begin`."""
    with database.begin() as connection:
        connection.execute(text("set transaction isolation level repeatable read, read only"))
        yield connection


def read_received(connection: Connection, wanted: Wanted = EVERYTHING) -> Received:
    """Everything received, as settled commits say."""
    return together([*_live(connection, wanted), *_over(connection, wanted)])


def _live(connection: Connection, wanted: Wanted) -> Iterable[Received]:
    """Of a stream's attempts, the one that was settled last: those before it are deleted as it is settled."""
    query = (
        select(attempts.c.exchange, attempts.c.dataset, attempts.c.state)
        .join(commits, commits.c.id == attempts.c.id)
        .where(attempts.c.state.is_not(None))
        .order_by(commits.c.position)
    )
    newest = {(row.exchange, row.dataset): row.state for row in connection.execute(_narrowed(query, attempts, wanted))}
    for (exchange, dataset), state in newest.items():
        for numbering, tables in numbering_tables(bytes(state)).items():
            yield received(exchange, dataset, numbering, tables, is_open=True, symbol=wanted.symbol)


def _over(connection: Connection, wanted: Wanted) -> Iterable[Received]:
    query = _narrowed(select(coverage), coverage, wanted).order_by(coverage.c.id)
    if wanted.since is not None:
        query = query.where(coverage.c.to_time >= wanted.since)
    if wanted.until is not None:
        query = query.where(coverage.c.from_time < wanted.until)
    for row in connection.execute(query):
        yield _of_frame(row, wanted.symbol)


def _of_frame(row: Row[Any], symbol: str | None) -> Received:
    tables = dict(unframed(bytes(row.frame)))
    return received(row.exchange, row.dataset, row.numbering, tables, is_open=False, symbol=symbol)


def _narrowed(query: Select[Any], table: Any, wanted: Wanted) -> Select[Any]:
    if wanted.exchange is not None:
        query = query.where(table.c.exchange == wanted.exchange)
    if wanted.dataset is not None:
        query = query.where(table.c.dataset == wanted.dataset)
    return query
