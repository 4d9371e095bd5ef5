"""Incidents for whoever asks: the command line now, others later."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, case, func, or_, select, update

from k2_dagster.alerts.messages import Links
from k2_dagster.alerts.outbox import incident_of
from k2_dagster.alerts.signals import RANKS
from k2_dagster.errors import QueryRefused
from k2_dagster.state.database import Database
from k2_dagster.state.tables import incident_deliveries as deliveries
from k2_dagster.state.tables import incident_transitions as transitions
from k2_dagster.state.tables import incidents

_SHOWN = ("severity", "key", "title", "opened_at", "updated_at", "resolved_at", "occurrences")


def list_incidents(database: Database, *, everything: bool, limit: int) -> list[dict[str, Any]]:
    """Open incidents and those of which something could not be delivered yet, the worst first; or all, newest first.

    `waiting` counts deliveries under way, `undelivered` those given up; `problem` is what a service said last;
    `acknowledged_at` when somebody last said that it is in hand, since it opened.
    """
    waits = and_(deliveries.c.delivered_at.is_(None), deliveries.c.given_up_at.is_(None))
    counts = (
        select(
            deliveries.c.key,
            func.count().filter(waits).label("waiting"),
            func.count().filter(deliveries.c.given_up_at.is_not(None)).label("undelivered"),
            func.max(deliveries.c.error).label("problem"),
        )
        .where(deliveries.c.delivered_at.is_(None))
        .group_by(deliveries.c.key)
        .subquery()
    )
    acknowledged = (
        select(func.max(transitions.c.at))
        .where(transitions.c.key == incidents.c.key, transitions.c.transition == "acknowledged")
        .where(transitions.c.at >= incidents.c.opened_at)
        .scalar_subquery()
        .label("acknowledged_at")
    )
    rank = case(RANKS, value=incidents.c.severity)
    query = (
        select(
            *(incidents.c[name] for name in _SHOWN),
            acknowledged,
            func.coalesce(counts.c.waiting, 0).label("waiting"),
            func.coalesce(counts.c.undelivered, 0).label("undelivered"),
            func.coalesce(counts.c.problem, "").label("problem"),
        )
        .outerjoin(counts, counts.c.key == incidents.c.key)
        .limit(limit)
    )
    if everything:
        query = query.order_by(incidents.c.opened_at.desc(), incidents.c.key)
    else:
        query = query.where(incidents.c.resolved_at.is_(None) | counts.c.key.is_not(None))
        query = query.order_by(
            incidents.c.resolved_at.is_not(None), rank.desc(), incidents.c.opened_at, incidents.c.key
        )
    with database.begin() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def show_incident(database: Database, key: str, links: Links) -> dict[str, Any]:
    """One incident whole: links, what was told, and to whom. Raises QueryRefused when there is none with this key."""
    with database.begin() as connection:
        row = connection.execute(select(incidents).where(incidents.c.key == key)).mappings().one_or_none()
        if row is None:
            raise QueryRefused(f"there is no incident {key!r}", advice="`k2 incidents list --all` shows every key")
        told = select(transitions).where(transitions.c.key == key).order_by(transitions.c.number)
        sent = select(deliveries).where(deliveries.c.key == key).order_by(deliveries.c.id)
        history = [dict(one) for one in connection.execute(told).mappings()]
        receipts = [dict(one) for one in connection.execute(sent).mappings()]
    incident = incident_of(row)
    names = ("number", "transition", "severity", "at", "title", "body")
    return {
        **row,
        "dagster": links.to_dagster(incident),
        "runbook": links.to_runbook(incident),
        "told": [{**{name: one[name] for name in names}, "to": _receipts(receipts, one["number"])} for one in history],
    }


def _receipts(receipts: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    names = ("target", "attempts", "delivered_at", "given_up_at", "next_at", "told_with", "error")
    return [{name: one[name] for name in names} for one in receipts if one["number"] == number]


def retry_deliveries(database: Database, key: str | None) -> int:
    """Try at once again whatever is not delivered, of one incident or of all; also what was given up."""
    query = update(deliveries).where(deliveries.c.delivered_at.is_(None))
    if key is not None:
        # a group goes as a whole
        of_key = and_(deliveries.c.key == key, deliveries.c.delivered_at.is_(None))
        groups = select(deliveries.c.told_with).where(of_key, deliveries.c.told_with.is_not(None))
        query = query.where(or_(deliveries.c.key == key, deliveries.c.told_with.in_(groups)))
    values = {"attempts": 0, "given_up_at": None, "next_at": func.clock_timestamp()}
    with database.begin() as connection:
        return connection.execute(query.values(**values)).rowcount
