"""Sums over a stream's commits, kept as they are settled: `k2 status` need not add up a year of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.state.database import Database
from k2_dagster.state.tables import totals

_NAMED = ("table_name", "exchange", "dataset")
_SUMMED = ("consumed", "rows", "quarantined")


_ONE = insert(totals)
_ADD = _ONE.on_conflict_do_update(
    index_elements=_NAMED,
    set_={
        **{name: totals.c[name] + _ONE.excluded[name] for name in ("commits", *_SUMMED)},
        "last_stamp": func.greatest(totals.c.last_stamp, _ONE.excluded.last_stamp),
    },
)


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
    named = dict(zip(_NAMED, stream, strict=True))
    connection.execute(_ADD, {**named, **values, "last_stamp": stamp})


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
