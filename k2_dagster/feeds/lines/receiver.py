"""Receives a channel on its lines into Kafka: arbitrates, asks again for what both lost, judges and publishes."""

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from k2_dagster.errors import ConfigurationError, PacketInvalid, VenueUnavailable
from k2_dagster.feeds.capture.block import Block, Rows
from k2_dagster.feeds.capture.sending import BlockSender
from k2_dagster.feeds.delivery import Waiting
from k2_dagster.feeds.handler import FeedHandler
from k2_dagster.feeds.lines.arbitration import Arbiter, Delivery, Limits
from k2_dagster.feeds.lines.asking import RETRANSMISSION, Asker
from k2_dagster.feeds.lines.intake import Address, Arrival, Intake
from k2_dagster.feeds.lines.report import LinesFeedReport, lines_text
from k2_dagster.feeds.lines.rows import Origin, block_of
from k2_dagster.feeds.mold.packets import Packet, decode_packet
from k2_dagster.feeds.mold.requests import Refusal
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.feeds.retransmission.client import ask_books
from k2_dagster.schemas.profiles import Domain, Profiles
from k2_dagster.settings import Settings

# How long a number that no line has brought holds the others up: lines of one exchange are milliseconds apart.
WAIT_SECONDS = 0.25
# The same where the retransmission server is asked: some requests, one of them lost.
WAIT_ASKED_SECONDS = 2.0
# Messages that wait behind such a number at most; then it is given up.
WAITING_MESSAGES = 50_000
# One wait for packets; what comes within the window leaves together, by the column.
TICK_SECONDS = 0.05
WINDOW_SECONDS = 0.01
# How often the streams say that they are alive, with the figures of the lines.
HEARTBEAT_SECONDS = 30.0
# Exchanges send heartbeats every second or oftener: all lines silent for so long is a connection that is lost.
SILENT_SECONDS = 5.0
REFUSALS_SHOWN = 5


@dataclass(frozen=True)
class ReceivePlan:
    """Which channel of which exchange comes on which addresses of ours; where what is lost can be asked for (`server`),
    and whether to begin with its snapshot of the books. Ends by itself after `seconds`, or with the session
    (`until_end`)."""

    exchange: str
    lines: Mapping[str, Address]
    channel: str = "1"
    server: Address | None = None
    snapshot: bool = False
    seconds: float | None = None
    until_end: bool = False


def receive(
    settings: Settings,
    profiles: Profiles,
    plan: ReceivePlan,
    *,
    stop: threading.Event,
    waiting: Waiting | None = None,
    report: LinesFeedReport | None = None,
    on_progress: Callable[[LinesFeedReport], None] = lambda _: None,
    on_listening: Callable[[Mapping[str, Address]], None] = lambda _: None,
) -> LinesFeedReport:
    """Receive until `stop` is set or the plan's end; what was accepted is delivered before it returns.

    `report` is filled on the way. `on_listening` is told the addresses (port 0 finds a free one). Raises
    ConfigurationError, VenueUnavailable (no snapshot can be had), and what Publisher raises.
    """
    streams = _streams(profiles, plan.exchange)
    report = report or LinesFeedReport(plan.exchange, plan.channel)
    run = f"lines-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    publisher = Publisher(settings, profiles, plan.exchange, publisher_session=run, waiting=waiting or Waiting())
    report.rows = publisher.accepted
    started = time.monotonic()
    try:
        with ExitStack() as stack:
            intake = stack.enter_context(Intake(plan.lines))
            on_listening(intake.addresses)
            stack.enter_context(publisher)
            asker = None if plan.server is None else stack.enter_context(Asker(plan.server, intake))
            handler = FeedHandler(publisher, profiles, plan.exchange)
            sender = BlockSender(publisher, handler, run)
            receiving = _Receiving(plan, streams, intake, asker, sender, report)
            if plan.snapshot:
                receiving.begin_with_books()
            deadline = None if plan.seconds is None else started + plan.seconds
            while not (stop.is_set() or receiving.is_over or (deadline is not None and time.monotonic() >= deadline)):
                receiving.step()
                on_progress(report)
            receiving.finish("the feed was stopped" if stop.is_set() else "the feed ended")
    finally:
        report.stopped = stop.is_set()
        report.undelivered = publisher.undelivered
        report.seconds = round(time.monotonic() - started, 3)
    return report


class _Receiving:
    """One run."""

    def __init__(
        self,
        plan: ReceivePlan,
        streams: list[str],
        intake: Intake,
        asker: Asker | None,
        sender: BlockSender,
        report: LinesFeedReport,
    ) -> None:
        wait = WAIT_SECONDS if asker is None else WAIT_ASKED_SECONDS
        self._plan = plan
        self._streams = streams
        self._origin = Origin(plan.exchange, plan.channel, streams[0])
        self._intake = intake
        self._asker = asker
        self._sender = sender
        self._report = report
        self._arbiter = Arbiter(plan.lines, Limits(wait, WAITING_MESSAGES), () if asker is None else (RETRANSMISSION,))
        self._report.lines = self._arbiter.figures
        self._report.asked = None if asker is None else asker.report
        self._inputs = 0
        self._connected = False
        self._heard = self._spoke = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the session has ended, and that is what the plan waits for."""
        return self._plan.until_end and self._arbiter.is_over

    def begin_with_books(self) -> None:
        """Publish the books as they were a moment ago, and go on with the message behind them."""
        assert self._plan.server is not None
        answer = ask_books(self._plan.server)
        if isinstance(answer, Refusal):
            raise VenueUnavailable(
                f"the retransmission server gives no books: {answer.reason.name.lower()}",
                advice="try again in a moment",
            )
        now = time.monotonic_ns()
        known = Delivery(answer.next_sequence, answer.session, RETRANSMISSION, now)
        books = Delivery(answer.next_sequence, answer.session, RETRANSMISSION, now, tuple(answer.messages))
        self._arbiter.begin(answer.session, answer.next_sequence)
        self._connect()
        arrived = self._block([known]).arrivals
        block = self._block([books])
        rows = {
            name: Rows(_unnumbered(one.batch, answer.next_sequence), one.orders) for name, one in block.rows.items()
        }
        self._sender.send(Block(0, block.inputs, rows, block.refusals, arrivals=arrived))
        self._report.books = len(answer.messages)

    def step(self) -> None:
        """Wait a moment for what comes, and serve it. Raises what Publisher raises."""
        arrivals = self._intake.take(TICK_SECONDS)
        if arrivals:
            time.sleep(WINDOW_SECONDS)
            arrivals += self._intake.take(0.0)
        deliveries = [one for arrival in arrivals for one in self._offered(arrival)]
        now = time.monotonic_ns()
        deliveries += self._arbiter.tick(now)
        if self._asker is not None:
            self._asker.want(self._arbiter.wanted(), now)
        self._publish(deliveries)
        self._watch(has_heard=any(one.line != RETRANSMISSION for one in arrivals))

    def finish(self, reason: str) -> None:
        """What waits is published, and what is missing told."""
        self._publish(self._arbiter.finish(time.monotonic_ns()))
        self._sender.handler.finish()
        self._say_figures()
        if self._connected:
            self._say_connection("disconnected", reason)

    def _offered(self, arrival: Arrival) -> Sequence[Delivery]:
        figures = self._arbiter.figures[arrival.line]
        try:
            packet = arrival.data if isinstance(arrival.data, Packet) else decode_packet(arrival.data)
        except PacketInvalid as error:
            figures.malformed += 1
            figures.last_malformed = error.message
            return ()
        return self._arbiter.offer(arrival.line, packet, arrival.nanos)

    def _publish(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            if not self._connected:
                self._connect()
            block = self._block(deliveries)
            self._inputs += block.inputs
            self._sender.send(block)
            self._report.refused += len(block.refusals)
            room = REFUSALS_SHOWN - len(self._report.refusals)
            self._report.refusals += [f"number {one.place}: {one.reason}" for one in block.refusals[:room]]
        self._report.note(self._arbiter)
        self._report.queue_dropped = self._intake.dropped

    def _block(self, deliveries: Sequence[Delivery]) -> Block:
        return block_of(self._origin, deliveries, time.time_ns() - time.monotonic_ns(), self._inputs)

    def _watch(self, *, has_heard: bool) -> None:
        now = time.monotonic()
        if has_heard:
            self._heard = now
        elif self._connected and now - self._heard > SILENT_SECONDS:
            self._connected = False
            self._say_connection("disconnected", f"nothing came on any line for {SILENT_SECONDS:g} s")
        if self._connected and now - self._spoke >= HEARTBEAT_SECONDS:
            self._say_figures()

    def _say_figures(self) -> None:
        self._spoke = time.monotonic()
        for stream in self._streams:
            self._sender.handler.heartbeat(stream, reason=lines_text(self._arbiter.figures))

    def _connect(self) -> None:
        self._connected = True
        told = ", ".join(f"{name} on {host}:{port}" for name, (host, port) in self._intake.addresses.items())
        self._say_connection("connected", f"lines {told}")

    def _say_connection(self, state: str, reason: str) -> None:
        for stream in self._streams:
            self._sender.handler.connection(stream, state, reason)


def _unnumbered(rows: pa.RecordBatch, next_sequence: int) -> pa.RecordBatch:
    """Rows of a snapshot: they have no number of the channel's, and say which one is behind them."""
    for name, values in (
        ("sequence", pa.nulls(rows.num_rows, pa.int64())),
        ("previous_sequence", pa.repeat(next_sequence - 1, rows.num_rows)),
    ):
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), values)
    return rows


def _streams(profiles: Profiles, exchange: str) -> list[str]:
    """Raises ConfigurationError for an exchange whose streams are not numbered by a channel."""
    streams = profiles.exchange(exchange).streams
    others = [name for name, one in streams.items() if one.domain is not Domain.CHANNEL]
    if others:
        raise ConfigurationError(
            f"exchange {exchange} has streams with other numbers than a channel's: {', '.join(others)}",
            advice='what comes on lines needs streams of the domain "channel"', exchange=exchange,
        )  # fmt: skip
    return list(streams)
