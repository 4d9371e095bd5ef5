"""`k2 ingest`: the drain loop as a process, for tables that must be fresher than Dagster's runs (DESIGN D7).

Each exchange is driven under its lease. A stream that meets a terminal error halts and the others go on; a transient
error is retried with backoff, with a bound.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from k2_dagster.errors import LeaseHeld, TerminalError, TransientError
from k2_dagster.ingest.commit import CommitReport
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.drain import StreamDrain
from k2_dagster.ingest.pipeline import OnCommit
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.settings import Settings
from k2_dagster.state.leases import acquire_lease, new_holder, release_lease, renew_lease

logger = logging.getLogger(__name__)

# How often an idle stream looks for new messages. One batched request per topic.
IDLE_POLL_SECONDS = 0.25
# One stream's turn while others wait; long enough to fill a batch, short enough for the freshness of the others.
TURN_SECONDS = 5.0
# Heartbeats per lease life: a few may be lost to a slow database.
HEARTBEATS_PER_LEASE = 6
# Backoff of a stream with a transient error; twenty tries are about eight minutes.
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
MAX_FAILURES = 20


@dataclass
class _Driven:
    """One stream with its troubles."""

    stream: StreamDrain
    failures: int = 0
    wait_until: float = 0.0
    halted: TerminalError | TransientError | None = None


@dataclass
class ProcessReport:
    """Why the process ended: streams that halted, by name."""

    halted: dict[str, TerminalError | TransientError] = field(default_factory=dict)


def run(
    settings: Settings, profiles: Profiles, exchanges: Sequence[str], stop: threading.Event, on_commit: OnCommit
) -> ProcessReport:
    """Drive the exchanges until `stop`, or until every stream has halted.

    Raises LeaseHeld when another process drives one of them, NotInitialized before `k2 init`.
    """
    holder = new_holder()
    with Connections.open(settings, profiles) as connections:
        held: list[str] = []
        try:
            for exchange in exchanges:
                acquire_lease(connections.database, exchange, holder, settings.lease_stale_seconds)
                held.append(exchange)
            heart = _Heart(connections, held, holder, stop)
            heart.start()
            try:
                return _drive(connections, exchanges, holder, stop, on_commit)
            finally:
                heart.end()
        finally:
            for exchange in held:
                release_lease(connections.database, exchange, holder)


def _drive(
    connections: Connections, exchanges: Sequence[str], holder: str, stop: threading.Event, on_commit: OnCommit
) -> ProcessReport:
    driven = [
        _Driven(StreamDrain(connections, exchange, dataset, holder))
        for exchange in exchanges
        for dataset in connections.profiles.exchange(exchange).datasets
    ]
    try:
        while not stop.is_set() and any(one.halted is None for one in driven):
            busy = [_turn(one, stop, on_commit) for one in driven if one.halted is None]
            if not any(busy):
                stop.wait(IDLE_POLL_SECONDS)
    finally:
        for one in driven:
            one.stream.close()
    return ProcessReport({one.stream.name: one.halted for one in driven if one.halted is not None})


def _turn(one: _Driven, stop: threading.Event, on_commit: OnCommit) -> bool:
    """Let a stream drain. Returns whether it had something to do."""
    if time.monotonic() < one.wait_until:
        return False
    commits = 0

    def counted(report: CommitReport) -> None:
        nonlocal commits
        commits += 1
        on_commit(report)

    try:
        one.stream.drain(stop, time.monotonic() + TURN_SECONDS, counted)
        one.failures = 0
    except TerminalError as error:
        logger.error("stream halted", extra={"stream": one.stream.name, "why": str(error)})
        one.halted = error
    except TransientError as error:
        _back_off(one, error)
    return commits > 0


def _back_off(one: _Driven, error: TransientError) -> None:
    one.failures += 1
    if one.failures >= MAX_FAILURES:
        logger.error("stream halted after too many failures", extra={"stream": one.stream.name, "why": str(error)})
        one.halted = error
        return
    wait = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2**one.failures)
    one.wait_until = time.monotonic() + wait
    logger.warning("stream waits", extra={"stream": one.stream.name, "why": error.message, "wait_seconds": wait})


class _Heart(threading.Thread):
    """Renews the leases; a lost one stops the process."""

    def __init__(self, connections: Connections, exchanges: Sequence[str], holder: str, stop: threading.Event) -> None:
        super().__init__(name="k2-leases", daemon=True)
        self.connections = connections
        self.exchanges = exchanges
        self.holder = holder
        self.stop_all = stop
        self._ended = threading.Event()

    def run(self) -> None:
        """Beat until the end."""
        pause = self.connections.settings.lease_stale_seconds / HEARTBEATS_PER_LEASE
        while not self._ended.wait(pause):
            for exchange in self.exchanges:
                self._beat(exchange)

    def end(self) -> None:
        """Stop beating."""
        self._ended.set()
        self.join()

    def _beat(self, exchange: str) -> None:
        try:
            renew_lease(self.connections.database, exchange, self.holder)
        except LeaseHeld as error:
            logger.error("lease lost", extra={"exchange": exchange, "why": error.message})
            self.stop_all.set()
        except TransientError as error:
            # the next beat tries again; if none succeeds the lease goes stale, and the fence keeps both writers apart
            logger.warning("heartbeat failed", extra={"exchange": exchange, "why": error.message})
