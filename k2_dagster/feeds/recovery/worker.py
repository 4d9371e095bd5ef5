"""The recovery worker of one exchange: asks for what the ledger misses, serves requests, until it is stopped.

Its position in the topic of requests is in the control database, and moves in the transaction that records how a
request ended. It is a convenience: a request that is read again, or never, is found by the ledger, which says what was
served and what is still to be asked for.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from sqlalchemy import Connection

from k2_dagster.errors import CaptureInvalid, LeaseHeld, NotInitialized, SchemaUnknown, TransientError
from k2_dagster.feeds.delivery import Waiting
from k2_dagster.feeds.live.backoff import Backoff
from k2_dagster.feeds.recovery.asking import ask_round, give_up_if_due
from k2_dagster.feeds.recovery.deciding import Terms
from k2_dagster.feeds.recovery.requests import read_request
from k2_dagster.feeds.recovery.sending import Sender
from k2_dagster.feeds.recovery.serving import Served, Server
from k2_dagster.feeds.recovery.source import RecoverySource
from k2_dagster.kafka.reader import Reader, open_reader
from k2_dagster.kafka.registry import Registry
from k2_dagster.kafka.topics import describe, watermarks
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.recovery import RECOVERY_DATASET, RECOVERY_PARTITIONS
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from k2_dagster.state.cursors import cursor_position, set_cursor
from k2_dagster.state.database import Database

logger = logging.getLogger(__name__)

# How often the ledger is looked at: a fraction of what a person notices.
ASK_SECONDS = 2.0
# Requests read at once; each is served before the next is looked at.
MOST_READ = 50
# Outcomes kept for the report.
OUTCOMES_SHOWN = 50
# After Kafka, the registry or the database did not answer.
PAUSE = Backoff(least_seconds=0.5, most_seconds=15.0)


@dataclass
class RecoveryReport:
    """What a worker did. `outcomes` counts served requests by how they ended; `last` are the newest."""

    exchange: str
    source: str
    asked: int = 0
    expired: int = 0
    published: int = 0
    refused: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    last: list[Served] = field(default_factory=list)

    def note(self, served: Served) -> None:
        """Count a request that was served."""
        self.outcomes[served.outcome] += 1
        self.published += served.published
        self.last = [*self.last, served][-OUTCOMES_SHOWN:]

    def as_document(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "outcomes": dict(self.outcomes), "last": [asdict(one) for one in self.last]}


class Worker:
    """Connects when it is entered. Two of them for one exchange double no row (what both publish lands once), but the
    load on the venue: whoever runs one holds the lease (`leased.py`). `may_go_on` raises when this one is to end."""

    def __init__(
        self,
        settings: Settings,
        profiles: Profiles,
        exchange: str,
        source: RecoverySource,
        *,
        report: RecoveryReport,
        stop: threading.Event,
        terms: Terms | None = None,
        waiting: Waiting | None = None,
        may_go_on: Callable[[], None] = lambda: None,
    ) -> None:
        self.report = report
        self._settings = settings
        self._profiles = profiles
        self._exchange = exchange
        self._source = source
        self._stop = stop
        self._terms = terms or Terms()
        self._waiting = waiting
        self._may_go_on = may_go_on
        self._topic = topic_name(RECOVERY_DATASET, exchange)
        self._quiet_until = 0.0
        self._asked_at = float("-inf")
        self._kept = ExitStack()
        self._read_to = 0
        self._lost = False

    def __enter__(self) -> Self:
        """Raises NotInitialized, PartitionCountChanged, and transient errors of the parts that do not answer."""
        with ExitStack() as opening:
            self._database = Database(self._settings, self._stop)
            opening.callback(self._database.close)
            self._registry = Registry(self._settings)
            opening.callback(self._registry.close)
            self._sender = opening.enter_context(
                Sender(self._settings, self._profiles, self._exchange, self._registry, self._waiting)
            )
            self._reader: Reader = open_reader(self._settings, self._stop)
            opening.callback(self._reader.close)
            self._assign()
            profile = self._profiles.exchange(self._exchange)
            self._server = Server(self._database, profile, self._sender, self._source, self._stop)
            self._kept = opening.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._kept.close()

    def round(self, timeout_seconds: float = ASK_SECONDS) -> None:
        """Ask for what is due, then serve what comes within the time. Raises as Database, Sender and Registry do."""
        self._may_go_on()
        if time.monotonic() - self._asked_at >= ASK_SECONDS:
            self._ask()
        if self._is_quiet:
            self._stop.wait(min(self._quiet_until - time.monotonic(), timeout_seconds))
            return
        if self._lost:
            self._assign()
        # until the last one is served, what is read is to be read again
        self._lost = True
        batch = self._reader.read(MOST_READ, timeout_seconds)
        for value, offset in zip(batch.values.to_pylist(), batch.offset.tolist(), strict=True):
            if self._is_quiet or not self._serve(value, int(offset)):
                return
            self._may_go_on()
        self._read_to = batch.positions.get(0, self._read_to)
        self._lost = False

    def once(self) -> None:
        """Ask for what is due now, and serve what is on the topic then, unless the venue wants to be left alone. Raises
        as `round`."""
        self._ask()
        end = watermarks(self._settings, self._topic, RECOVERY_PARTITIONS, self._stop)[0][1]
        while not self._stop.is_set() and not self._is_quiet and self._read_to < end:
            self._asked_at = time.monotonic()
            self.round()

    def run(self) -> None:
        """Until the stop. What does not answer is waited for; raises what waiting cannot mend, and LeaseHeld when
        another process has taken over."""
        failures = 0
        while not self._stop.is_set():
            try:
                self.round()
                failures = 0
            except LeaseHeld:
                raise
            except TransientError as error:
                failures += 1
                self._lost = True
                logger.warning("recovery waits", extra={"exchange": self._exchange, "error": error.message})
                self._stop.wait(PAUSE.delay_seconds(failures, 0.0))

    @property
    def _is_quiet(self) -> bool:
        """Whether the venue is left alone now."""
        return time.monotonic() < self._quiet_until

    def _assign(self) -> None:
        """From where the control database says: what was read and not served is read again."""
        self._reader_name, start = self._start()
        self._reader.assign(self._topic, {0: start})
        self._read_to = start
        self._lost = False

    def _ask(self) -> None:
        asked, expired = ask_round(self._database, self._sender, self._exchange, self._terms)
        self._asked_at = time.monotonic()
        self.report.asked += asked
        self.report.expired += expired

    def _serve(self, value: bytes | None, offset: int) -> bool:
        """Returns whether the request is behind us."""
        moved = self._moved(offset + 1)
        try:
            request = read_request(value, self._registry)
        except (CaptureInvalid, SchemaUnknown) as error:
            # its gap is asked for again when nothing comes of it
            self.report.refused += 1
            logger.warning("no request", extra={"topic": self._topic, "offset": offset, "reason": error.message})
            with self._database.begin() as connection:
                moved(connection)
            return True
        served = self._server.serve(request, moved)
        self.report.note(served)
        logger.info("a request was served", extra={**asdict(served), "exchange": self._exchange})
        if served.wait_seconds:
            self._quiet_until = time.monotonic() + served.wait_seconds
        if served.outcome in ("fail", "refuse"):
            self.report.expired += give_up_if_due(self._database, served.gap_id, self._terms)
        return served.outcome != "stop"

    def _moved(self, position: int) -> Callable[[Connection], None]:
        return lambda connection: set_cursor(connection, self._reader_name, self._topic, position)

    def _start(self) -> tuple[str, int]:
        """Name of our position (of this incarnation of the topic) and where to go on. Requests that Kafka has deleted
        are made again when nothing comes of them."""
        state = describe(self._settings, [self._topic], self._stop).get(self._topic)
        if state is None:
            raise NotInitialized(f"topic {self._topic} does not exist", advice="run `k2 init`", topic=self._topic)
        name = f"recovery:{state.topic_id}"
        with self._database.begin() as connection:
            known = cursor_position(connection, name, self._topic)
        earliest, end = watermarks(self._settings, self._topic, RECOVERY_PARTITIONS, self._stop)[0]
        start = earliest if known is None else known
        if not earliest <= start <= end:
            logger.warning(
                "requests are not there any more", extra={"topic": self._topic, "position": start, "first": earliest}
            )
            start = earliest
        return name, start
