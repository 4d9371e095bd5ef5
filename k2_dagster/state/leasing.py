"""The leases of a process: taken, kept alive by a thread, lost one by one, given back."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from k2_dagster.errors import K2Error, LeaseHeld
from k2_dagster.state.database import Database
from k2_dagster.state.leases import Work, acquire_lease, release_leases, renew_lease

logger = logging.getLogger(__name__)

# Heartbeats per lease life: a few may be lost to a slow database.
HEARTBEATS_PER_LEASE = 6


class Leases:
    """The exchanges that this process holds for a kind of work. Thread-safe; open it with `leasing`."""

    def __init__(self, database: Database, holder: str, stale_seconds: float, work: Work = "ingest") -> None:
        self._database = database
        self._work: Work = work
        self._holder = holder
        self._stale_seconds = stale_seconds
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._lost: dict[str, LeaseHeld] = {}

    def acquire(self, exchange: str) -> None:
        """Take the lease. Raises LeaseHeld when another process has it, DatabaseUnavailable."""
        acquire_lease(self._database, exchange, self._holder, self._stale_seconds, self._work)
        with self._lock:
            self._held.add(exchange)

    def holds(self, exchange: str) -> bool:
        """Whether it is ours, as far as the last heartbeat told."""
        with self._lock:
            return exchange in self._held

    def release(self, exchange: str) -> None:
        """Give it back, so that others need not wait. A database that does not answer lets it go stale instead."""
        with self._lock:
            self._held.discard(exchange)
        self._give_back([exchange])

    def lost(self) -> dict[str, LeaseHeld]:
        """Exchanges that another process took over, since the last call."""
        with self._lock:
            found, self._lost = self._lost, {}
        return found

    def beat(self) -> None:
        """Renew every lease; what was taken over is not ours any more."""
        with self._lock:
            held = sorted(self._held)
        for exchange in held:
            try:
                renew_lease(self._database, exchange, self._holder, self._work)
            except LeaseHeld as error:
                with self._lock:
                    if exchange in self._held:
                        self._held.discard(exchange)
                        self._lost[exchange] = error
            except K2Error as error:
                # the next beat tries again; if none succeeds the lease goes stale, and the fence keeps writers apart
                logger.warning("heartbeat failed", extra={"exchange": exchange, "why": error.message})

    def release_all(self) -> None:
        """Give back what is held."""
        with self._lock:
            held, self._held = sorted(self._held), set()
        self._give_back(held)

    def _give_back(self, exchanges: list[str]) -> None:
        try:
            release_leases(self._database, exchanges, self._holder, self._work)
        except K2Error as error:
            why = f"{error.message}; they go stale after {self._stale_seconds:g} s"
            logger.warning("leases not given back", extra={"exchanges": exchanges, "why": why})


@contextmanager
def leasing(database: Database, holder: str, stale_seconds: float, work: Work = "ingest") -> Iterator[Leases]:
    """Leases with a heartbeat, given back at the end of the block."""
    leases = Leases(database, holder, stale_seconds, work)
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(stale_seconds / HEARTBEATS_PER_LEASE):
            try:
                leases.beat()
            except Exception:  # without heartbeats, others would take over what this process goes on with
                logger.exception("heartbeat failed unexpectedly")

    heart = threading.Thread(target=keep, name="k2-leases", daemon=True)
    heart.start()
    try:
        yield leases
    finally:
        ended.set()
        heart.join()
        leases.release_all()
