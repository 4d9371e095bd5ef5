"""The rounds of `k2 watch`: look, judge, write, tell.

    1. lead     only the holder of the lock does the rest of a round; another `k2 watch` stands by
    2. look     every source that is due (sources.py)
    3. write    what changed and what is to be told, in one transaction (outbox.py)
    4. tell     whatever waits, also from before (delivery.py)
    5. beat     only after all of this, and not when nobody takes what there is to tell: then the dead man's switch is
                the only way left to be heard

A round that fails is logged, and the next one tries again. While the control database is away, nothing can be written
down: that alone is told directly (away.py).
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text

from k2_dagster.alerts.away import Away
from k2_dagster.alerts.delivery import Delivered, Deliverer
from k2_dagster.alerts.heartbeat import Heartbeat
from k2_dagster.alerts.messages import Message
from k2_dagster.alerts.outbox import Outbox
from k2_dagster.alerts.sources import Sources
from k2_dagster.alerts.targets import Target
from k2_dagster.errors import K2Error, TransientError
from k2_dagster.state.database import Database
from k2_dagster.state.locks import try_lock

logger = logging.getLogger(__name__)

LEADER_LOCK = "k2:watch"
# A leader that is silent for so long within a round hangs (a stopped process keeps its connections): PostgreSQL takes
# the lock from it, and the one that stands by leads. Four looks and the deliveries of a round take less.
LEADER_SILENT_SECONDS = 240
PRUNE_INTERVAL_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class Round:
    """What a round did."""

    told: Sequence[Message]
    delivered: Delivered


class Watch:
    """Everything that a round needs; made by `watch/composition.py`."""

    def __init__(
        self,
        database: Database,
        sources: Sources,
        outbox: Outbox,
        deliverer: Deliverer,
        targets: Sequence[Target],
        heartbeat: Heartbeat,
        away: Away,
    ) -> None:
        self._database = database
        self._sources = sources
        self._outbox = outbox
        self._deliverer = deliverer
        self._targets = targets
        self._heartbeat = heartbeat
        self._away = away
        self._standing_by = False
        self._prune_at = 0.0

    def run(self, stop: threading.Event, interval_seconds: float) -> None:
        """Rounds until `stop`. Raises a terminal error of the first round: something must be changed first."""
        first = True
        while not stop.is_set():
            began = time.monotonic()
            try:
                self.round()
                first = False
            except K2Error as error:
                if first and not isinstance(error, TransientError):
                    raise
                if stop.is_set():
                    return
                logger.error("round failed", extra={"problem": error.message})
                self._away.missed(error.message, time.monotonic())
            stop.wait(max(0.0, interval_seconds - (time.monotonic() - began)))

    def round(self) -> Round | None:
        """One round; None when another `k2 watch` leads. Raises DatabaseUnavailable, NotInitialized and
        DatabaseRefused."""
        with self._database.begin() as connection:
            limit = text("select set_config('idle_in_transaction_session_timeout', :limit, true)")
            connection.execute(limit, {"limit": f"{LEADER_SILENT_SECONDS}s"})
            if not try_lock(connection, LEADER_LOCK):  # Step 1
                self._stand_by(True)
                return None
            self._stand_by(False)
            readings = [*self._sources.readings(time.monotonic()), self._away.reading()]  # Step 2
            told = self._outbox.update(readings, self._targets, self._away.told)  # Step 3
            self._away.recorded(self._outbox.next_number(self._away.key))
            for one in told:
                what = {"incident": one.identity, "what": one.transition, "severity": one.severity, "title": one.title}
                logger.warning("incident", extra=what)
            self._outbox.readdress(self._targets)
            delivered = self._deliverer.deliver(self._targets)  # Step 4
            self._prune()
        if not delivered.silent or len(delivered.silent) < len(self._targets):
            self._heartbeat.beat()  # Step 5
        return Round(told, delivered)

    def _stand_by(self, now: bool) -> None:
        if now != self._standing_by:
            logger.info("another `k2 watch` leads" if now else "this `k2 watch` leads")
        self._standing_by = now

    def _prune(self) -> None:
        if time.monotonic() >= self._prune_at:
            self._outbox.prune()
            self._prune_at = time.monotonic() + PRUNE_INTERVAL_SECONDS
