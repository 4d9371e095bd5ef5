"""`k2 ingest`: the drain loop as a process, for tables that must be fresher than Dagster's runs (DESIGN D7).

Each exchange is driven under its lease. A stream in trouble is tried again by itself (`driven.py`); the others go on.
An exchange whose streams are all halted is given back, and taken again for each new try. An exchange whose lease was
taken over is dropped.
"""

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from k2_dagster.errors import K2Error, LeaseHeld, TransientError
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.drain import TURN_SECONDS
from k2_dagster.ingest.driven import HALTED_RETRY_SECONDS, Driven
from k2_dagster.ingest.pipeline import OnCommit
from k2_dagster.ingest.resident import give_back_code
from k2_dagster.ingest.stream import StreamDrain
from k2_dagster.ingest.warm import load_kernels
from k2_dagster.kafka.ends import TopicEnd
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.settings import Settings
from k2_dagster.state.holders import new_holder
from k2_dagster.state.leasing import Leases, leasing

logger = logging.getLogger(__name__)

# How often streams look for new messages: two batched requests, however many there are.
IDLE_POLL_SECONDS = 0.25


@dataclass
class ProcessReport:
    """Streams that were in trouble when the process was stopped, by name."""

    troubled: dict[str, K2Error] = field(default_factory=dict)


def run(
    settings: Settings, profiles: Profiles, exchanges: Sequence[str], stop: threading.Event, on_commit: OnCommit
) -> ProcessReport:
    """Drive the exchanges until `stop`.

    Raises LeaseHeld when another process drives one of them at the start, or when the last of them was taken over;
    NotInitialized before `k2 init`; DatabaseUnavailable at the start.
    """
    load_kernels()
    give_back_code()
    holder = new_holder()
    with (
        Connections.open(settings, profiles, stop) as connections,
        leasing(connections.database, holder, settings.lease_stale_seconds) as leases,
    ):
        for exchange in exchanges:
            leases.acquire(exchange)
        process = _Process(connections, exchanges, holder, leases, on_commit)
        try:
            process.drive()
        finally:
            process.close()
        return ProcessReport({one.stream.name: one.trouble for one in process.streams if one.trouble is not None})


class _Paced(Driven):
    """A stream whose messages wait in Kafka until a batch of them is worth a commit."""

    def __init__(self, stream: StreamDrain, driver: str) -> None:
        super().__init__(stream, driver)
        self._waiting_since: float | None = None

    def is_due(self, end: TopicEnd) -> bool:
        """Whether messages fill a batch, or the first one has waited for the commit interval."""
        settings = self.stream.connections.settings
        waiting = self.stream.waiting(end)
        if waiting is None:
            return True
        if waiting == 0:
            self._waiting_since = None
            return False
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        waited = time.monotonic() - self._waiting_since
        return waiting >= settings.ingest_batch_rows or waited >= settings.ingest_commit_interval_seconds

    def turn(self, stop: threading.Event, deadline: float | None, on_commit: OnCommit) -> bool:
        """See `Driven`. What is left at the end of a turn has waited long enough."""
        caught_up = super().turn(stop, deadline, on_commit)
        if caught_up:
            self._waiting_since = None
        return caught_up


class _Process:
    """The streams of a process, in turns."""

    def __init__(
        self,
        connections: Connections,
        exchanges: Sequence[str],
        holder: str,
        leases: Leases,
        on_commit: OnCommit,
    ) -> None:
        self._connections = connections
        self._stop = connections.stop
        self._leases = leases
        self._on_commit = on_commit
        self.streams = [
            _Paced(StreamDrain(connections, exchange, dataset, holder), f"process {holder}")
            for exchange in exchanges
            for dataset in connections.profiles.exchange(exchange).datasets
        ]

    def drive(self) -> None:
        """Until the stop. Raises LeaseHeld when no exchange is left."""
        while not self._stop.is_set():
            self._drop_lost()
            due = self._due([one for one in self.streams if self._may_try(one)])
            for one in due:
                if self._stop.is_set():
                    return
                one.turn(self._stop, time.monotonic() + TURN_SECONDS, self._on_commit)
            self._give_back_halted()
            if not due:
                self._stop.wait(IDLE_POLL_SECONDS)

    def close(self) -> None:
        """Give the readers' connections back."""
        for one in self.streams:
            one.stream.close()

    def _due(self, streams: Sequence[_Paced]) -> list[_Paced]:
        """Those that have something to do: a position to find, or messages that have waited long enough."""
        opened = [one for one in streams if one.stream.position is not None]
        ends = self._connections.ends.read([one.stream.topic for one in opened])
        due = []
        for one in streams:
            end = ends[one.stream.topic] if one in opened else None
            if isinstance(end, TransientError):
                one.failed(end, self._stop)
            elif not isinstance(end, TopicEnd) or one.is_due(end):
                due.append(one)
        return due

    def _may_try(self, one: _Paced) -> bool:
        """Whether the stream's backoff is over and its exchange ours, taking its lease again if it was given back."""
        if time.monotonic() < one.ready_at:
            return False
        exchange = one.stream.exchange
        if self._leases.holds(exchange):
            return True
        try:
            self._leases.acquire(exchange)
        except LeaseHeld as error:
            logger.info("exchange is driven by another process", extra={"exchange": exchange, "why": error.message})
            one.postpone(HALTED_RETRY_SECONDS)
            return False
        except K2Error as error:
            one.failed(error, self._stop)
            return False
        return True

    def _give_back_halted(self) -> None:
        """Nobody should wait for an exchange with which this process can do nothing."""
        for exchange in _exchanges(self.streams):
            halted = all(one.halted for one in self.streams if one.stream.exchange == exchange)
            if halted and self._leases.holds(exchange):
                logger.error("every stream is halted: lease given back", extra={"exchange": exchange})
                self._leases.release(exchange)

    def _drop_lost(self) -> None:
        for exchange, error in self._leases.lost().items():
            logger.error("lease lost: exchange dropped", extra={"exchange": exchange, "why": error.message})
            for one in self.streams:
                if one.stream.exchange == exchange:
                    one.stream.close()
            self.streams = [one for one in self.streams if one.stream.exchange != exchange]
            if not self.streams:
                raise error


def _exchanges(streams: Iterable[Driven]) -> list[str]:
    return list(dict.fromkeys(one.stream.exchange for one in streams))
