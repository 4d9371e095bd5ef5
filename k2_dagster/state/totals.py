"""Sums over a stream's commits, kept as they are settled: `k2 status` need not add up a year of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.state.database import Database
from k2_dagster.state.tables import totals

_SUMMED = ("consumed", "rows", "quarantined")


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one stream and table. `last_stamp` is that of its newest commit."""

    commits: int
    consumed: int
    rows: int
    quarantined: int
    last_stamp: datetime


def add_to_totals(
    connection: Connection, stream: tuple[str, str, str], counts: Mapping[str, Any], stamp: datetime
) -> None:
    """Count one commit of a stream (table name, exchange, dataset), in the transaction that settles it."""
    values = {"commits": 1, **{name: int(counts.get(name, 0)) for name in _SUMMED}}
    named = dict(zip(("table_name", "exchange", "dataset"), stream, strict=True))
    fresh = insert(totals).values(**named, **values, last_stamp=stamp)
    added = {name: totals.c[name] + value for name, value in values.items()}
    last_stamp = func.greatest(totals.c.last_stamp, fresh.excluded.last_stamp)
    connection.execute(
        fresh.on_conflict_do_update(index_elements=list(named), set_={**added, "last_stamp": last_stamp})
    )


def read_totals(database: Database, table_name: str | None = None) -> dict[tuple[str, str, str], Totals]:
    """By (table name, exchange, dataset)."""
    query = select(totals)
    if table_name is not None:
        query = query.where(totals.c.table_name == table_name)
    names = tuple(Totals.__dataclass_fields__)
    with database.begin() as connection:
        rows = connection.execute(query).mappings().all()
    return {
        (row["table_name"], row["exchange"], row["dataset"]): Totals(**{name: row[name] for name in names})
        for row in rows
    }
