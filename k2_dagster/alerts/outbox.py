"""Incidents in the control database, and what is to be told of them: written together or not at all.

    1. judge     what was known and what is read now, under a lock, so that two `k2 watch` judge after each other
    2. write     incidents, transitions, and a delivery per transition and target, in that transaction
    3. deliver   (delivery.py) each in a transaction of its own that holds its row: nobody else sends it meanwhile

What is written in step 2 is delivered in step 3 by whoever comes, this process or the next.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from k2_dagster.alerts.grouping import kind_of
from k2_dagster.alerts.judge import HOLD_SECONDS, Change, Incident, judge
from k2_dagster.alerts.messages import Links, Message, message
from k2_dagster.alerts.signals import Reading, Signal
from k2_dagster.alerts.targets import Target
from k2_dagster.errors import QueryRefused
from k2_dagster.state.database import Database
from k2_dagster.state.locks import take_lock
from k2_dagster.state.tables import incident_deliveries as deliveries
from k2_dagster.state.tables import incident_transitions as transitions
from k2_dagster.state.tables import incidents

LOCK = "k2:incidents"
# Resolved and told, an incident is history: a quarter of a year of it answers "has this happened before?".
KEPT_DAYS = 90
_PLACES = ("title", "text", "what_to_do", "runbook", "run_id", "asset", "partition")


class Outbox:
    """What `k2 watch` writes. Methods raise DatabaseUnavailable, and NotInitialized before `k2 init`."""

    def __init__(self, database: Database, links: Links, hold_seconds: float = HOLD_SECONDS) -> None:
        self._database = database
        self._links = links
        self._hold_seconds = hold_seconds

    def update(
        self,
        readings: Sequence[Reading],
        targets: Sequence[Target],
        already: Mapping[str, Collection[str]] | None = None,
    ) -> list[Message]:
        """Judge and write (steps 1 and 2). Returns what is to be told, which is on record then.

        `already` names by key the targets that have been told of its opening.
        """
        keys = {key for reading in readings for key in reading.signals}
        with self._database.begin() as connection:
            take_lock(self._database, connection, LOCK)
            now = connection.execute(select(func.clock_timestamp())).scalar_one()
            changes = judge(_known(connection, keys), readings, now, self._hold_seconds)
            told = []
            for change in changes:
                _write(connection, change)
                if change.transition is not None:
                    told.append(message(change.incident, change.transition, self._links, now))
                    _write_transition(connection, told[-1], targets, now)
                    _mark_told(connection, told[-1], (already or {}).get(change.incident.key, ()))
            return told

    def close(self, key: str, closed_by: str, reason: str, targets: Sequence[Target]) -> Message:
        """Resolve an incident by hand: of something that is not watched any more, or that nobody will repeat. It opens
        again at the next look if its signal stands. Raises QueryRefused when no incident is open under this key."""
        with self._database.begin() as connection:
            take_lock(self._database, connection, LOCK)
            now = connection.execute(select(func.clock_timestamp())).scalar_one()
            before = _open_under(connection, key)
            after = replace(before, resolved_at=now, updated_at=now, transitions=before.transitions + 1)
            _write(connection, Change(after, "resolved"))
            told = message(after, "resolved", self._links, now, f"Closed by {closed_by}: {reason}")
            _write_transition(connection, told, targets, now)
            return told

    def acknowledge(self, key: str, acknowledged_by: str, reason: str) -> Message:
        """Put on record that somebody has an open incident in hand. Nobody is told; that it got worse, and that it
        ended, is told as ever. Raises QueryRefused when no incident is open under this key."""
        with self._database.begin() as connection:
            take_lock(self._database, connection, LOCK)
            now = connection.execute(select(func.clock_timestamp())).scalar_one()
            before = _open_under(connection, key)
            after = replace(before, updated_at=now, transitions=before.transitions + 1)
            _write(connection, Change(after, "acknowledged"))
            note = f"Acknowledged by {acknowledged_by}: {reason}"
            told = message(after, "acknowledged", self._links, now, note)
            _write_transition(connection, told, (), now)
            return told

    def next_number(self, key: str) -> int:
        """The number that the next transition of an incident will have."""
        with self._database.begin() as connection:
            return (
                int(connection.execute(select(incidents.c.transitions).where(incidents.c.key == key)).scalar() or 0) + 1
            )

    def readdress(self, targets: Sequence[Target]) -> int:
        """See to it that what waits has somebody to go to. Returns how many deliveries were added.

        What waits for a target that is no longer configured goes to those that are: an address with a typing mistake,
        once mended, gets what it missed. An open incident of which nobody was told, because nobody was configured,
        goes to everybody. Without any target, everything stays as it is.
        """
        if not targets:
            return 0
        names = [one.name for one in targets]
        orphan = and_(deliveries.c.delivered_at.is_(None), deliveries.c.target.not_in(names))
        with self._database.begin() as connection:
            take_lock(self._database, connection, LOCK)
            waiting = select(deliveries.c.key, deliveries.c.number).where(orphan)
            found = {(row.key, row.number) for row in connection.execute(waiting.union(_untold()))}
            if not found:
                return 0
            added = sum(_address(connection, key, number, targets) for key, number in sorted(found))
            connection.execute(delete(deliveries).where(orphan))
            return added

    def prune(self) -> int:
        """Delete incidents that were resolved KEPT_DAYS ago and of which nothing waits. Returns how many."""
        waits = select(deliveries.c.id).where(deliveries.c.key == incidents.c.key, deliveries.c.delivered_at.is_(None))
        old = incidents.c.resolved_at < func.clock_timestamp() - timedelta(days=KEPT_DAYS)
        with self._database.begin() as connection:
            return connection.execute(delete(incidents).where(old, ~waits.exists())).rowcount


def _known(connection: Connection, keys: set[str]) -> dict[str, Incident]:
    wanted = or_(incidents.c.resolved_at.is_(None), incidents.c.key.in_(keys))
    rows = connection.execute(select(incidents).where(wanted)).mappings()
    return {row["key"]: incident_of(row) for row in rows}


def _open_under(connection: Connection, key: str) -> Incident:
    found = _known(connection, {key}).get(key)
    if found is None or not found.is_open:
        raise QueryRefused(
            f"no incident is open under {key!r}", advice="`k2 incidents list` shows those that are", key=key
        )
    return found


def incident_of(row: Mapping[Any, Any]) -> Incident:
    """From a row of the table."""
    signal = Signal(severity=row["signal_severity"], **{name: row[name] for name in _PLACES})
    names = ("opened_at", "updated_at", "absent_since", "resolved_at", "occurrences", "transitions")
    return Incident(row["key"], row["severity"], signal, **{name: row[name] for name in names})


def _write(connection: Connection, change: Change) -> None:
    one = change.incident
    values = {
        "severity": one.severity,
        "signal_severity": one.signal.severity,
        **{name: getattr(one.signal, name) for name in _PLACES},
        "opened_at": one.opened_at,
        "updated_at": one.updated_at,
        "absent_since": one.absent_since,
        "resolved_at": one.resolved_at,
        "occurrences": one.occurrences,
        "transitions": one.transitions,
    }
    fresh = upsert(incidents).values(key=one.key, **values)
    connection.execute(fresh.on_conflict_do_update(index_elements=["key"], set_=values))


def _write_transition(connection: Connection, told: Message, targets: Sequence[Target], now: datetime) -> None:
    row = {name: getattr(told, name) for name in ("key", "number", "transition", "severity", "title", "body")}
    connection.execute(insert(transitions).values(at=now, **row))
    _deliver_to(connection, told.key, told.number, [one for one in targets if one.wants(told.severity)])


def _mark_told(connection: Connection, told: Message, names: Collection[str]) -> None:
    if told.transition == "opened" and names:
        mine = and_(deliveries.c.key == told.key, deliveries.c.number == told.number, deliveries.c.target.in_(names))
        connection.execute(update(deliveries).where(mine).values(delivered_at=func.clock_timestamp(), attempts=1))


def _address(connection: Connection, key: str, number: int, targets: Sequence[Target]) -> int:
    query = select(transitions.c.severity).where(transitions.c.key == key, transitions.c.number == number)
    severity = connection.execute(query).scalar_one()
    return _deliver_to(connection, key, number, [one for one in targets if one.wants(severity)])


def _deliver_to(connection: Connection, key: str, number: int, targets: Sequence[Target]) -> int:
    rows = [{"key": key, "number": number, "target": one.name, "kind": kind_of(key)} for one in targets]
    if not rows:
        return 0
    return connection.execute(upsert(deliveries).values(rows).on_conflict_do_nothing()).rowcount


def _untold() -> Any:
    """The newest transition of each open incident of which nothing was ever addressed to anybody."""
    addressed = select(deliveries.c.id).where(deliveries.c.key == incidents.c.key)
    return select(incidents.c.key, incidents.c.transitions.label("number")).where(
        incidents.c.resolved_at.is_(None), ~addressed.exists()
    )
