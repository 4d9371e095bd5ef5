"""A live feed: connects, publishes what comes, connects anew, until it is stopped.

The thread that runs it publishes; each connection receives in a thread of its own, book snapshots are fetched in a
third, lists of instruments in a fourth. Frames become lines of the venue's capture format, so they are read by what
reads captures, and a recording is what was read.
"""

import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from k2_dagster.errors import VenueUnavailable
from k2_dagster.feeds.capture.formats import FORMATS
from k2_dagster.feeds.capture.sending import BlockSender, check_streams
from k2_dagster.feeds.delivery import Waiting
from k2_dagster.feeds.handler import FeedHandler
from k2_dagster.feeds.live.backoff import Backoff
from k2_dagster.feeds.live.connection import Connection
from k2_dagster.feeds.live.conversation import Conversation
from k2_dagster.feeds.live.fetching import SnapshotFetcher
from k2_dagster.feeds.live.intake import Intake
from k2_dagster.feeds.live.listings.fetching import ListingFetcher
from k2_dagster.feeds.live.listings.keeping import Definitions
from k2_dagster.feeds.live.recording import Recording
from k2_dagster.feeds.live.report import FeedReport
from k2_dagster.feeds.live.serving import FeedPlan, Outlets, Serving
from k2_dagster.feeds.live.venue import Topic
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.settings import Settings

LOG = logging.getLogger(__name__)
# Between connections. Venues ban addresses that come too often (Binance: 300 in five minutes).
RECONNECT = Backoff(0.5, 60.0)
# A connection that held this long was a good one: the next failure is the first again.
STEADY_SECONDS = 30.0
# Attempts before everything was acknowledged once. Then the address or a symbol is wrong rather than away for a moment.
FIRST_TRIES = 5


def feed(
    settings: Settings,
    profiles: Profiles,
    plan: FeedPlan,
    *,
    stop: threading.Event,
    waiting: Waiting | None = None,
    report: FeedReport | None = None,
    on_progress: Callable[[FeedReport], None] = lambda _: None,
    reconnect: Backoff = RECONNECT,
) -> FeedReport:
    """Feed until `stop` is set or the plan's time is over; what was accepted is delivered before it returns. `report`
    is filled on the way, so it has the counts when this raises. `on_progress` is called often.

    Raises ConfigurationError (before anything is published), VenueUnavailable when the venue was never reached,
    SubscriptionRefused, and what Publisher raises.
    """
    format_ = next(one for one in FORMATS if one.name == plan.venue.format)
    check_streams(profiles, plan.exchange, format_, f"the feed of {plan.venue.exchange}")
    report = report or FeedReport(plan.venue.exchange, plan.exchange, list(plan.symbols))
    run = f"feed-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    publisher = Publisher(settings, profiles, plan.exchange, publisher_session=run, waiting=waiting or Waiting())
    report.rows = publisher.accepted
    started = time.monotonic()
    try:
        with ExitStack() as stack:
            recording = stack.enter_context(Recording(plan.venue, plan.url, plan.record))
            stack.enter_context(publisher)
            handler = FeedHandler(publisher, profiles, plan.exchange)
            sender = BlockSender(publisher, handler, recording.name or run)
            fetcher = stack.enter_context(SnapshotFetcher(plan.venue, plan.snapshot_url))
            outlets = Outlets(format_, sender, recording, fetcher, report)
            deadline = None if plan.seconds is None else started + plan.seconds
            definitions = stack.enter_context(_kept(plan, publisher, report, recording))
            LiveFeed(plan, run, outlets, stop, deadline, on_progress, reconnect, definitions).run()
            handler.finish()
    finally:
        report.undelivered = publisher.undelivered
        report.seconds = time.monotonic() - started
    return report


@contextmanager
def _kept(
    plan: FeedPlan, publisher: Publisher, report: FeedReport, recording: Recording
) -> Iterator[Definitions | None]:
    """Definitions while the block runs; None where none are asked for."""
    if not plan.definitions_url:
        yield None
        return
    with ListingFetcher(plan.venue.listing, plan.definitions_url) as fetcher:
        yield Definitions(fetcher, publisher, plan.exchange, report.definitions, recording.add_listing)


@dataclass
class LiveFeed:
    """The connections of one run, one after another."""

    plan: FeedPlan
    run_name: str
    outlets: Outlets
    stop: threading.Event
    deadline: float | None
    on_progress: Callable[[FeedReport], None]
    reconnect: Backoff
    definitions: Definitions | None = None

    @property
    def report(self) -> FeedReport:
        """What became of it so far."""
        return self.outlets.report

    def run(self) -> None:
        """Connect until it is over. Raises as `feed`."""
        known: set[Topic] = set()
        wanted = self.plan.venue.topics(self.plan.symbols)
        failures, reason = 0, ""
        while not self._is_over():
            began = time.monotonic()
            reason = self._connect(known)
            steady = time.monotonic() - began >= STEADY_SECONDS
            failures = 1 if steady else failures + 1
            if failures >= FIRST_TRIES and not known.issuperset(wanted) and not self._is_over():
                raise VenueUnavailable(
                    f"{self.plan.url} did not acknowledge everything in {failures} tries; the last: {reason}",
                    advice="is the address reachable from here, and are the symbols as the venue writes them?",
                    url=self.plan.url,
                )
            self._pause(failures)
        self.report.stopped = self.stop.is_set()
        if reason and not self.report.connections and not self.report.stopped:
            raise VenueUnavailable(
                f"{self.plan.url} was not reached in {self.report.tries} tries; the last: {reason}",
                advice="is the address reachable from here?",
                url=self.plan.url,
            )

    def _connect(self, known: set[Topic]) -> str:
        """One connection from its beginning to its end; returns why it ended."""
        self.report.tries += 1
        intake = Intake()
        talk = Conversation(self.plan.venue, self.plan.symbols, known, time.monotonic())
        with Connection(self.plan.url, intake) as connection:
            serving = Serving(
                self.plan, f"{self.run_name}-{self.report.connections + 1}", talk, connection, intake, self.outlets
            )
            while serving.ended is None:
                if self._is_over():
                    connection.end("the feed was stopped")
                serving.step()
                self._look()
        LOG.info("%s: %s", self.plan.url, serving.ended)
        return serving.ended

    def _pause(self, failures: int) -> None:
        if self._is_over():
            return
        delay = self.reconnect.delay_seconds(failures, random.random())
        until = time.monotonic() + delay
        while not self._is_over() and (left := until - time.monotonic()) > 0:
            self._look()
            self.stop.wait(min(left, 0.5))

    def _look(self) -> None:
        """What is done whether there is a connection or not."""
        if self.definitions is not None:
            self.definitions.look()
        self.on_progress(self.report)

    def _is_over(self) -> bool:
        return self.stop.is_set() or (self.deadline is not None and time.monotonic() >= self.deadline)
