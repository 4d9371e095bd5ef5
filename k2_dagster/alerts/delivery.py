"""Deliveries of the outbox: each sent at least once, tried again with a growing wait, and given up in the end.

A target gets the transitions of an incident in their order. One that fails is not asked again in the same round, so a
target that is down costs one timeout a round; targets do not wait for each other. What is given up stays on record,
and `k2 incidents retry` takes it up again.

Deliveries of one kind that came within a moment are one message (grouping.py).

    1. group    what is told together, in a transaction of its own
    2. send     inside the transaction that holds the rows
    3. mark     at the end of it

Whoever is killed between 2 and 3 has sent it and nobody knows: it is sent again, with the same identity in its text.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, func, update

from k2_dagster.alerts.grouping import GROUP_WINDOW_SECONDS, first_due, form_group, members_of
from k2_dagster.alerts.messages import Message, together
from k2_dagster.alerts.targets import Target, send
from k2_dagster.errors import AlertUndelivered, K2Error
from k2_dagster.observability.points import reached
from k2_dagster.state.database import Database
from k2_dagster.state.tables import incident_deliveries as deliveries

logger = logging.getLogger(__name__)

# A service that restarts is back within seconds; one that is down for hours is asked every ten minutes.
FIRST_WAIT_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 600.0
# With these waits, about four days: a long weekend.
MOST_ATTEMPTS = 600
# A round must end, so that the next look comes; a storm of incidents takes a few rounds.
DELIVERIES_PER_ROUND = 50
# And however slowly a service takes them. Below the time after which a leader counts as hung (rounds.py).
ROUND_SECONDS = 60.0
# Each holds a connection while it sends; the pool has ten for everything.
PARALLEL_TARGETS = 4

Send = Callable[[Target, Message], None]


@dataclass(slots=True)
class Delivered:
    """How a round went, in messages. `silent` targets had something to get, and took nothing."""

    sent: int = 0
    failed: int = 0
    silent: set[str] = field(default_factory=set)


def wait_seconds(attempts: int) -> float:
    """How long after so many failures the next try comes."""
    doublings = min(max(attempts, 1) - 1, 30)
    return float(min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**doublings))


class Deliverer:
    """Sends what waits. One per process: it remembers what it sent and could not mark."""

    def __init__(
        self,
        database: Database,
        stop: threading.Event,
        send: Send = send,
        window_seconds: float = GROUP_WINDOW_SECONDS,
    ) -> None:
        self._database = database
        self._stop = stop
        self._send = send
        self._window_seconds = window_seconds
        self._unmarked: set[int] = set()

    def deliver(self, targets: Sequence[Target]) -> Delivered:
        """One round: everything that is due, as far as it goes. Raises DatabaseUnavailable."""
        out = Delivered()
        if targets:
            with ThreadPoolExecutor(PARALLEL_TARGETS, thread_name_prefix="k2-alert") as pool:
                for target, (sent, failed) in zip(targets, pool.map(self._to, targets), strict=True):
                    out.sent, out.failed = out.sent + sent, out.failed + failed
                    if failed and not sent:
                        out.silent.add(target.name)
        return out

    def _to(self, target: Target) -> tuple[int, int]:
        """Sent and failed. A failure ends the target's round."""
        passed = 0
        deadline = time.monotonic() + ROUND_SECONDS
        while passed < DELIVERIES_PER_ROUND and time.monotonic() < deadline and not self._stop.is_set():
            went_well = self._next(target)
            if went_well is None:
                break
            if not went_well:
                return passed, 1
            passed += 1
        return passed, 0

    def _next(self, target: Target) -> bool | None:
        """Send the next delivery that is due, or the group that it is told with; whether it went well. None when there
        is none."""
        with self._database.begin() as connection:
            row = connection.execute(first_due(target.name, self._window_seconds)).one_or_none()
            if row is None:
                return None
            is_group = form_group(connection, row, self._window_seconds, self._unmarked)
            went_well = None if is_group else self._tell(connection, target, row.id, [row])
        if is_group:
            # it is on record before it is sent
            reached("alerts.grouped")
            with self._database.begin() as connection:
                members = members_of(connection, row.id)
                went_well = self._tell(connection, target, row.id, members) if members else None
        if went_well:
            self._unmarked.discard(row.id)
        return went_well

    def _tell(self, connection: Connection, target: Target, first: int, rows: Sequence[Any]) -> bool:
        """Send one message about these deliveries, which the transaction holds, and mark them; whether it was taken.
        `first` is the id of one, or of the group."""
        told = [Message(row.key, row.number, row.transition, row.severity, row.title, row.body) for row in rows]
        message = told[0] if len(told) == 1 else together(told, rows[0].kind, first)
        what = {"target": target.name, "incident": message.identity, "incidents": len(rows)}
        if first not in self._unmarked:
            try:
                self._send(target, message)
            except AlertUndelivered as error:
                _mark_failed(connection, rows, what, error)
                return False
            self._unmarked.add(first)
            reached("alerts.sent")
        values = {"delivered_at": func.clock_timestamp(), "attempts": rows[0].attempts + 1, "error": ""}
        connection.execute(update(deliveries).where(deliveries.c.id.in_([row.id for row in rows])).values(**values))
        logger.info("told", extra={**what, "what": message.transition})
        return True


def _mark_failed(connection: Connection, rows: Sequence[Any], what: dict[str, Any], error: K2Error) -> None:
    attempts = rows[0].attempts + 1
    given_up = attempts >= MOST_ATTEMPTS
    values: dict[str, Any] = {
        "attempts": attempts,
        "error": error.message,
        "next_at": func.clock_timestamp() + timedelta(seconds=wait_seconds(attempts)),
    }
    if given_up:
        values["given_up_at"] = func.clock_timestamp()
    connection.execute(update(deliveries).where(deliveries.c.id.in_([row.id for row in rows])).values(**values))
    logger.log(
        logging.ERROR if given_up else logging.WARNING,
        "not delivered, given up" if given_up else "not delivered",
        extra={**what, "attempts": attempts, "problem": error.message},
    )
