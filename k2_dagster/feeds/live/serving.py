"""Serves one connection: takes what came in, publishes it, and does what the conversation decides."""

import contextlib
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from k2_dagster.errors import SubscriptionRefused
from k2_dagster.feeds.capture.block import DAMAGE, Block
from k2_dagster.feeds.capture.formats import Format
from k2_dagster.feeds.capture.lines import Collector
from k2_dagster.feeds.capture.sending import BlockSender
from k2_dagster.feeds.live.connection import Connection
from k2_dagster.feeds.live.conversation import Action, Conversation, Drop, Fetch, LeftOut, Refuse, Send, TellBook
from k2_dagster.feeds.live.fetching import SnapshotFetcher
from k2_dagster.feeds.live.intake import Arrival, Intake
from k2_dagster.feeds.live.recording import Recording
from k2_dagster.feeds.live.report import ConnectionReport, FeedReport
from k2_dagster.feeds.live.skew import SkewMeter
from k2_dagster.feeds.live.venue import Venue
from k2_dagster.schemas.topics import CONTROL_DATASET

LOG = logging.getLogger(__name__)
# How often silence and unanswered requests are looked at when nothing comes.
TICK_SECONDS = 0.2
# What comes within one leaves together, by the column. Shorter costs processor time, longer is visible as bursts.
WINDOW_SECONDS = 0.02
# A stream that had nothing to say for this long says that it is alive.
HEARTBEAT_SECONDS = 30.0


@dataclass(frozen=True)
class FeedPlan:
    """What is fed from where: `url` and `snapshot_url` are the venue's unless they were replaced; `exchange` is where
    the rows go. It ends by itself after `seconds`, if given. Without a `definitions_url` no definitions are asked for.
    """

    venue: Venue
    symbols: tuple[str, ...]
    exchange: str
    url: str
    snapshot_url: str
    record: Path | None = None
    seconds: float | None = None
    definitions_url: str = ""


@dataclass(frozen=True)
class Outlets:
    """Where everything of a run goes, whichever connection it came on."""

    format: Format
    sender: BlockSender
    recording: Recording
    fetcher: SnapshotFetcher
    report: FeedReport


class Serving:
    """One connection, from the attempt on. `ended` is None until its end was served, then why it ended."""

    def __init__(
        self,
        plan: FeedPlan,
        session: str,
        talk: Conversation,
        connection: Connection,
        intake: Intake,
        outlets: Outlets,
    ) -> None:
        self.ended: str | None = None
        self._plan = plan
        self._talk = talk
        self._connection = connection
        self._intake = intake
        self._out = outlets
        self._streams = list(dict.fromkeys(stream for _, stream in outlets.format.streams))
        self._book_stream = next(stream for dataset, stream in outlets.format.streams if dataset == "book")
        self._told = ConnectionReport(session)
        self._skew = SkewMeter()
        self._began = time.monotonic()
        self._spoke = dict.fromkeys(self._streams, self._began)
        self._silent = set(self._streams)
        self._connected = False

    def step(self) -> None:
        """Wait a moment for what comes, and serve it. Raises SubscriptionRefused, and what Publisher raises."""
        arrivals = self._intake.take(TICK_SECONDS)
        if arrivals:
            time.sleep(WINDOW_SECONDS)
            arrivals += self._intake.take(0.0)
        report = self._out.report
        report.most_queued = max(report.most_queued, len(arrivals))
        if arrivals and arrivals[0].kind == "connected":
            self._begin()
        self._publish(arrivals)
        if self._connected and self.ended is None:
            self._do(self._talk.tick(time.monotonic()))
            self._heartbeats()
        self._note()
        # A snapshot may have come behind it
        ended = next((one for one in arrivals if one.kind == "ended"), None)
        if ended is not None:
            self._end(ended.payload.decode(errors="replace"))

    def _begin(self) -> None:
        self._connected = True
        self._out.report.connections += 1
        self._out.report.last.append(self._told)
        self._out.sender.publisher.begin_session(self._told.publisher_session)
        for stream in self._streams:
            self._out.sender.handler.connection(stream, "connected", self._plan.url)
        self._do(self._talk.greet())

    def _end(self, reason: str) -> None:
        self.ended = reason
        if self._connected:
            for stream in self._streams:
                self._out.sender.handler.connection(stream, "disconnected", reason)
            self._told.ended = reason
            self._note()

    def _publish(self, arrivals: Sequence[Arrival]) -> None:
        frames: dict[int, bytes] = {}
        collector = Collector(self._plan.exchange)
        for arrival in arrivals:
            number, line = self._out.recording.add(arrival)
            if arrival.kind in ("received", "snapshot"):
                frames[number] = arrival.payload
                self._out.report.snapshots += arrival.kind == "snapshot"
                assert self._out.format.take is not None
                self._out.format.take(collector, number, line)
        if not frames:
            return
        now = time.monotonic()
        if any(arrival.kind == "received" for arrival in arrivals):
            self._talk.heard(now)
        block = collector.block(min(frames), len(frames))
        self._out.sender.send(block)
        self._out.report.count(block)
        self._measure(block, now)
        self._listen(block, frames, collector, now)

    def _listen(self, block: Block, frames: dict[int, bytes], collector: Collector, now: float) -> None:
        """Hand the venue's answers and book messages to the conversation."""
        actions: list[Action] = []
        for skip in block.skips:
            # What is no answer of a known form answers nothing: what is not acknowledged in time shows it
            with contextlib.suppress(*DAMAGE):
                actions += self._talk.replied(orjson.loads(frames[skip.order]))
        for stream, event in collector.messages("book"):
            # A damaged one was refused when the block was built; the next one does not follow, and shows it
            with contextlib.suppress(*DAMAGE):
                actions += self._talk.book(stream.name, event.data, now)
        self._do(actions)

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Send(messages):
                    self._connection.send(messages)
                case Fetch(symbol):
                    self._out.fetcher.fetch(symbol, self._intake)
                case TellBook(symbol, state, reason):
                    self._out.report.books_lost += state == "ended"
                    self._out.sender.handler.book(self._book_stream, symbol, state, reason)
                case LeftOut(topics, reason):
                    LOG.warning("the venue refuses %s by now: %s", topics, reason)
                    for channel, symbol in topics:
                        self._out.sender.handler.connection(channel, "disconnected", f"{symbol}: {reason}")
                case Drop(reason):
                    self._connection.end(reason)
                case Refuse(topics, reason):
                    self._connection.end(reason)
                    self._end(reason)
                    raise SubscriptionRefused(
                        f"{self._plan.venue.exchange} refused {', '.join(' '.join(one) for one in topics)}: {reason}",
                        advice="write symbols as the venue does, separated by commas",
                        topics=topics,
                    )

    def _measure(self, block: Block, now: float) -> None:
        for dataset, rows in block.rows.items():
            for stream in rows.batch.column("stream").unique().to_pylist():
                self._spoke[stream] = now
                self._silent.discard(stream)
            if dataset != CONTROL_DATASET:
                self._skew.add(rows.batch)

    def _heartbeats(self) -> None:
        now = time.monotonic()
        for stream in self._streams:
            is_alive = self._talk.heard_at > self._spoke[stream]
            if is_alive and now - self._spoke[stream] >= HEARTBEAT_SECONDS:
                self._spoke[stream] = now
                self._out.sender.handler.heartbeat(stream)

    def _note(self) -> None:
        report = self._out.report
        report.note(self._out.sender.publisher)
        report.snapshot_failures = self._out.fetcher.failures
        report.books_waiting = self._talk.waiting_books
        self._told.silent = sorted(self._silent)
        self._told.skew = self._skew.skew
        self._told.seconds = time.monotonic() - self._began
