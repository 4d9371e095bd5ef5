"""Plays captures into Kafka, at their own timing, faster, or flat out."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.capture.block import Block, Refusal
from k2_dagster.feeds.capture.formats import Capture
from k2_dagster.feeds.capture.pacing import Pace
from k2_dagster.feeds.numbering import Numbering
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.schemas.profiles import ExchangeProfile, Profiles
from k2_dagster.schemas.topics import message_key
from k2_dagster.settings import Settings

# Of a refused line, more than this is cut off (and said so): Kafka refuses messages over a megabyte.
REFUSED_BYTES = 524_288
# Refusals kept for the report; all are counted, and all are published.
REFUSALS_SHOWN = 5


@dataclass
class PlayReport:
    """What became of one capture: `inputs` (lines or messages) = those that gave rows + refused + skipped, where one
    line may give several rows. `stopped` when it was ended early."""

    path: str
    format: str
    exchange: str
    publisher_session: str
    inputs: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    refusals: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    stopped: bool = False

    def as_document(self) -> dict[str, object]:
        """The report as JSON has it."""
        return {**vars(self), "rows": dict(self.rows), "skipped": dict(self.skipped)}

    def count(self, block: Block) -> None:
        """Add what a block holds besides its rows."""
        self.inputs += block.inputs
        self.skipped.update(block.skipped)
        self.refused += len(block.refusals)
        room = REFUSALS_SHOWN - len(self.refusals)
        self.refusals += [f"{one.place}: {one.reason}" for one in block.refusals[:room]]


def stamped_blocks(capture: Capture, profile: ExchangeProfile, publisher_session: str) -> Iterator[Block]:
    """The capture's blocks with the publisher pair: the session derives from the content, and the sequence is dense per
    dataset and symbol in file order. So a capture that is played twice gives the same pairs, hence only duplicates."""
    numbering: dict[str, Numbering] = {}
    for block in capture.blocks(profile):
        stamped = {}
        for dataset, rows in block.batches.items():
            numbers = numbering.setdefault(dataset, Numbering()).next_numbers(rows.column("symbol"))
            sessions = pa.repeat(publisher_session, rows.num_rows)
            stamped[dataset] = _filled(_filled(rows, "publisher_session", sessions), "publisher_sequence", numbers)
        yield replace(block, batches=stamped)


def play(
    settings: Settings,
    profiles: Profiles,
    captures: Sequence[Capture],
    *,
    speed: float | None,
    stop: threading.Event,
    on_progress: Callable[[PlayReport], None] = lambda _: None,
) -> list[PlayReport]:
    """Play captures one after another, each from its own start; `speed` 1.0 is original timing, None flat out.

    When `stop` is set, what was accepted is still delivered, and the reports say so. `on_progress` is called after each
    block.

    Raises ConfigurationError (before anything is published) when an exchange is not in the profiles or does not declare
    the capture's streams, CaptureInvalid, and what Publisher raises.
    """
    if speed is not None and not speed > 0:
        raise ConfigurationError(f"speed was {speed}", advice="valid: a number above 0, or flat out", speed=speed)
    for capture in captures:
        _check_streams(capture, profiles)
    reports = []
    for capture in captures:
        if stop.is_set():
            break
        session = capture.publisher_session
        report = PlayReport(str(capture.source.path), capture.format.name, capture.exchange, session)
        reports.append(report)
        started = time.monotonic()
        with Publisher(settings, profiles, capture.exchange, publisher_session=session) as publisher:
            _play_one(capture, profiles.exchange(capture.exchange), publisher, report, Pace(speed), stop, on_progress)
        report.seconds = time.monotonic() - started
    return reports


def _play_one(
    capture: Capture,
    profile: ExchangeProfile,
    publisher: Publisher,
    report: PlayReport,
    pace: Pace,
    stop: threading.Event,
    on_progress: Callable[[PlayReport], None],
) -> None:
    started = time.monotonic()
    for block in stamped_blocks(capture, profile, report.publisher_session):
        for due_seconds, ready in pace.cut(block.batches):
            if stop.wait(max(0.0, started + due_seconds - time.monotonic())):
                report.stopped = True
                return
            for dataset, rows in ready.items():
                report.rows[dataset] += publisher.publish(dataset, rows)
        for refusal in block.refusals:
            key = message_key(capture.exchange, refusal.symbol)
            publisher.publish_framed(refusal.dataset, [key], [refused_message(capture, refusal)])
        report.count(block)
        on_progress(report)


def refused_message(capture: Capture, refusal: Refusal) -> bytes:
    """A refused line as a message: why, then the line. It never starts with a zero byte, so ingest cannot take it for a
    framed message, and quarantines it as `not_framed`."""
    raw = refusal.raw
    cut = f" (first {REFUSED_BYTES:,} of {len(raw):,} bytes)" if len(raw) > REFUSED_BYTES else ""
    told = f"k2 play refused {capture.source.name} at {refusal.place}{cut}: {refusal.reason}\n"
    return told.encode() + raw[:REFUSED_BYTES]


def _check_streams(capture: Capture, profiles: Profiles) -> None:
    profile = profiles.exchange(capture.exchange)
    for dataset, stream in capture.format.streams:
        if profile.stream(dataset, stream) is None:
            raise ConfigurationError(
                f"exchange {capture.exchange} declares no stream {stream!r} of {dataset}, which "
                f"{capture.source.path} ({capture.format.name}) has",
                advice=f"add [exchanges.{capture.exchange}.streams.{stream}] to its profile, or name another",
                exchange=capture.exchange,
                stream=stream,
            )


def _filled(rows: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(place), values)
