"""Plays captures into Kafka, at their own timing, faster, or flat out.

Venue formats make blocks of rows; everything behind them stands on the feed-handler core. The publisher pair follows
from the content alone: its session from a hash, its numbers from the order of publishing, which is the order of the
file. So a capture that is played twice gives the same pairs, hence only duplicates.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from k2_dagster.errors import CaptureInvalid, ConfigurationError
from k2_dagster.feeds.capture.block import Block
from k2_dagster.feeds.capture.formats import Capture
from k2_dagster.feeds.capture.pacing import Pace
from k2_dagster.feeds.capture.report import BlockReport
from k2_dagster.feeds.capture.sending import BlockSender, check_streams
from k2_dagster.feeds.delivery import Waiting
from k2_dagster.feeds.handler import FeedHandler
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.settings import Settings


@dataclass
class PlayReport(BlockReport):
    """What became of one capture, also when it was `stopped` early: `inputs` (lines or messages, as far as it came) are
    those that gave rows, the refused and the skipped, where one line may give several rows and a row several lines.

    `share` of the content was read, and `recorded_micros` is how far its own time has come.
    """

    path: str
    format: str
    exchange: str
    publisher_session: str
    inputs: int = 0
    share: float = 0.0
    recorded_micros: int | None = None

    def count(self, block: Block) -> None:
        """Add what a published block holds besides its rows."""
        super().count(block)
        self.inputs += block.inputs


def play(
    settings: Settings,
    profiles: Profiles,
    captures: Sequence[Capture],
    *,
    speed: float | None,
    stop: threading.Event,
    waiting: Waiting | None = None,
    reports: list[PlayReport] | None = None,
    on_progress: Callable[[PlayReport], None] = lambda _: None,
) -> list[PlayReport]:
    """Play captures one after another, each from its own start; `speed` 1.0 is original timing, None flat out.

    When `stop` is set, what was accepted is still delivered, and the reports say so. `reports` is filled on the way, so
    it has the counts when this raises. `on_progress` is called often.

    Raises ConfigurationError (before anything is published) when an exchange is not in the profiles or does not declare
    the capture's streams, CaptureInvalid, and what Publisher raises.
    """
    if speed is not None and not 0 < speed < float("inf"):
        raise ConfigurationError(f"speed was {speed}", advice="valid: a number above 0, or flat out", speed=speed)
    for capture in captures:
        check_streams(profiles, capture.exchange, capture.format, str(capture.source.path))
    reports = [] if reports is None else reports
    for capture in captures:
        if stop.is_set():
            break
        session = capture.publisher_session
        report = PlayReport(str(capture.source.path), capture.format.name, capture.exchange, session)
        reports.append(report)
        started = time.monotonic()
        publisher = Publisher(
            settings, profiles, capture.exchange, publisher_session=session, waiting=waiting or Waiting()
        )
        try:
            with publisher:
                handler = FeedHandler(publisher, profiles, capture.exchange)
                _Playing(capture, publisher, handler, report, Pace(speed), stop).run(on_progress)
        finally:
            report.undelivered = publisher.undelivered
            report.seconds = time.monotonic() - started
    return reports


@dataclass
class _Playing:
    """One capture being played."""

    capture: Capture
    publisher: Publisher
    handler: FeedHandler
    report: PlayReport
    pace: Pace
    stop: threading.Event
    connected: bool = False

    @cached_property
    def sender(self) -> BlockSender:
        return BlockSender(self.publisher, self.handler, self.capture.source.name)

    def run(self, on_progress: Callable[[PlayReport], None]) -> None:
        self.report.rows = self.publisher.accepted
        started = time.monotonic()
        try:
            for block in self.capture.blocks():
                for due_seconds, part in self.pace.cut(block):
                    if self.stop.wait(max(0.0, started + due_seconds - time.monotonic())):
                        self._end_early("playing was stopped")
                        return
                    self._publish(part)
                    self._note(part)
                    on_progress(self.report)
        except CaptureInvalid:
            self._end_early("the capture cannot be read any further")
            raise
        self.handler.finish()
        self._connection("disconnected", "the capture ends")

    def _publish(self, part: Block) -> None:
        if not self.connected:
            self._connection("connected", "the capture begins")
            self.connected = True
        self.sender.send(part)

    def _note(self, part: Block) -> None:
        report, meter = self.report, self.capture.source.meter
        report.count(part)
        report.note(self.publisher)
        report.share = meter.done / meter.total if meter.total else 0.0
        report.recorded_micros = self.pace.latest_micros

    def _connection(self, state: str, reason: str) -> None:
        micros = self.pace.origin_micros if state == "connected" else self.pace.latest_micros
        for stream in dict.fromkeys(stream for _, stream in self.capture.format.streams):
            self.handler.connection(stream, state, f"{reason}: {self.capture.source.name}", at_micros=micros)

    def _end_early(self, reason: str) -> None:
        """Said under a publisher session of its own: the capture may be played again, and its next message has the
        number that this one would take. Holes that are still open are not told, for the same reason."""
        self.report.stopped = True
        if self.connected:
            self.handler.speak_apart(f"{self.report.publisher_session}-stopped-{self.report.inputs}")
            self._connection("disconnected", reason)
