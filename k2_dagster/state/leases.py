"""Who drives an exchange as a process, or recovers what it missed: a lease row, with a heartbeat in database time.

A lease keeps Dagster's sensor and a second process away, and tells people who is at work. One that was killed keeps it
until it is stale, unless whoever wants it next can see that it is gone (`holders.py`). It is no lock: two at once
waste work (and the venue's patience), and fence and identities keep them from doubling a row.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import ColumnElement, and_, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.errors import LeaseHeld
from k2_dagster.state.database import Database
from k2_dagster.state.holders import is_gone
from k2_dagster.state.tables import leases

logger = logging.getLogger(__name__)

# What a process does for an exchange; each has a lease of its own.
Work = Literal["ingest", "recovery"]
_IS_DONE: dict[Work, str] = {"ingest": "driven", "recovery": "recovered"}


@dataclass(frozen=True, slots=True)
class Lease:
    """One lease. `age_seconds` since its last heartbeat, by the database's clock."""

    exchange: str
    work: Work
    holder: str
    acquired_at: datetime
    age_seconds: float


def acquire_lease(database: Database, exchange: str, holder: str, stale_seconds: float, work: Work = "ingest") -> None:
    """Take the lease if it is free, stale or ours, or its holder's process is known to be gone. Raises LeaseHeld naming
    the holder."""
    owner = _take(database, exchange, holder, stale_seconds, work)
    if owner is not None and is_gone(owner):
        left = _take(database, exchange, holder, stale_seconds, work, gone=owner)
        if left is None:
            logger.warning(
                "lease taken over at once: the process that held it is gone",
                extra={"exchange": exchange, "work": work, "holder": owner},
            )
        owner = left
    if owner is not None:
        raise LeaseHeld(
            f"{exchange} is {_IS_DONE[work]} by {owner}",
            advice=f"stop it, or wait: a lease without a heartbeat for {stale_seconds:g} s may be taken over",
            exchange=exchange,
            holder=owner,
        )


def _take(
    database: Database, exchange: str, holder: str, stale_seconds: float, work: Work, *, gone: str | None = None
) -> str | None:
    """Take the lease, also from a holder that is `gone`; returns whose it is when it cannot be had."""
    now = func.clock_timestamp()
    fresh = insert(leases).values(exchange=exchange, work=work, holder=holder, acquired_at=now, heartbeat_at=now)
    stale = leases.c.heartbeat_at < now - text(f"interval '{float(stale_seconds)} seconds'")
    taken = fresh.on_conflict_do_update(
        index_elements=[leases.c.exchange, leases.c.work],
        set_={"holder": holder, "acquired_at": now, "heartbeat_at": now},
        where=stale | leases.c.holder.in_([holder] if gone is None else [holder, gone]),
    ).returning(leases.c.holder)
    with database.begin() as connection:
        if connection.execute(taken).one_or_none() is not None:
            return None
        owner = connection.execute(select(leases.c.holder).where(_of(exchange, work))).scalar()
    return str(owner)


def renew_lease(database: Database, exchange: str, holder: str, work: Work = "ingest") -> None:
    """A heartbeat. Raises LeaseHeld when somebody took the lease over."""
    query = update(leases).where(_of(exchange, work), leases.c.holder == holder)
    with database.begin() as connection:
        if connection.execute(query.values(heartbeat_at=func.clock_timestamp())).rowcount == 0:
            raise LeaseHeld(f"the lease of {exchange} was taken over", advice="this process leaves it alone")


def release_leases(database: Database, exchanges: Sequence[str], holder: str, work: Work = "ingest") -> None:
    """Give the leases back, those that are still ours."""
    if exchanges:
        with database.begin() as connection:
            mine = leases.c.exchange.in_(exchanges) & (leases.c.work == work) & (leases.c.holder == holder)
            connection.execute(delete(leases).where(mine))


def read_leases(database: Database, work: Work = "ingest") -> dict[str, Lease]:
    """Every lease of a kind of work by exchange, stale ones too."""
    age = func.extract("epoch", func.clock_timestamp() - leases.c.heartbeat_at).label("age")
    query = select(leases.c.exchange, leases.c.holder, leases.c.acquired_at, age).where(leases.c.work == work)
    with database.begin() as connection:
        rows = connection.execute(query).all()
    return {row.exchange: Lease(row.exchange, work, row.holder, row.acquired_at, float(row.age)) for row in rows}


def _of(exchange: str, work: Work) -> ColumnElement[bool]:
    return and_(leases.c.exchange == exchange, leases.c.work == work)
