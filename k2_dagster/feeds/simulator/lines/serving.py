"""Sends a simulated exchange's channel on its lines, in real time, and answers what is asked for again."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.mold.packets import Packet, PacketKind, encode_packet
from k2_dagster.feeds.simulator.feed import FeedParameters
from k2_dagster.feeds.simulator.lines.answering import History, Rates
from k2_dagster.feeds.simulator.lines.channel import ChannelBlock, ExchangeChannel, ReadyPacket, snapshot_packets
from k2_dagster.feeds.simulator.lines.line import Line, LineFaults, LineReport
from k2_dagster.feeds.simulator.lines.server import Books, RetransmissionServer
from k2_dagster.feeds.simulator.truth import open_truth
from k2_dagster.schemas.common import MICROS_PER_SECOND
from k2_dagster.schemas.profiles import Profiles

Address = tuple[str, int]

LINE_NAMES = ("A", "B")
# How often what has become due is sent.
SLICE_SECONDS = 0.005
# A line on which nothing was sent for so long says which number comes next, as does one whose session is over.
HEARTBEAT_SECONDS = 0.2


@dataclass(frozen=True)
class LinesPlan:
    """Where the lines and the server are, what happens to packets, and for how long the server answers after the last
    message."""

    lines: tuple[Address, Address]
    server: Address
    faults: LineFaults = LineFaults()  # noqa: RUF009  (frozen)
    linger_seconds: float = 10.0
    truth: Path | None = None


@dataclass
class LinesReport:
    """What was sent, line by line, and what neither sent: `lost_ranges` counts ranges of numbers, `lost_messages`
    messages. `behind_seconds` is the longest time that a packet left after it was due."""

    exchange: str
    session: str
    server: str
    messages: int = 0
    packets: int = 0
    lost_messages: int = 0
    lost_ranges: int = 0
    behind_seconds: float = 0.0
    interrupted: bool = False
    seconds: float = 0.0
    lines: dict[str, LineReport] = field(default_factory=dict)
    retransmission: dict[str, Any] = field(default_factory=dict)

    def as_document(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class LineSimulation:
    """One run. `stop` ends it at once; the truth names what was sent until then, and nothing else.

    The plan's `truth` is one JSON object per line: `dropped` or `delayed` packets with line, session and numbers, and
    `lost` ones that no line sent.
    """

    def __init__(
        self,
        profiles: Profiles,
        parameters: FeedParameters,
        plan: LinesPlan,
        *,
        stop: threading.Event,
        rates: Rates | None = None,
        on_progress: Callable[[LinesReport], None] = lambda _: None,
    ) -> None:
        """Serves the retransmission address from now on. Raises ConfigurationError."""
        self._plan = plan
        self._channel = ExchangeChannel(profiles, parameters)
        self._stop = stop
        self._on_progress = on_progress
        self._lines = [Line(name, parameters.seed, plan.faults) for name in LINE_NAMES]
        self._history = History(self._channel.session)
        self._books = Books()
        self._server = RetransmissionServer(self._history, self._books, plan.server, rates)
        self._next_sequence = 1
        self._lost_upto = 0
        self._spoke = dict.fromkeys(LINE_NAMES, 0.0)
        self._truth: IO[str] | None = None
        self.report = LinesReport(
            parameters.exchange, self._channel.session, "{}:{}".format(*self._server.address),
            lines={name: LineReport() for name in LINE_NAMES},
        )  # fmt: skip
        self.report.retransmission = self._server.report.__dict__

    @property
    def server_address(self) -> Address:
        """Where requests are answered."""
        return self._server.address

    def run(self) -> LinesReport:
        """Send until the end, linger, and return what was done."""
        started = time.monotonic()
        with ExitStack() as stack:
            if self._plan.truth is not None:
                self._truth = stack.enter_context(open_truth(self._plan.truth))
            stack.enter_context(self._server)
            self._sockets = [stack.enter_context(_connected(address)) for address in self._plan.lines]
            for block in self._channel.blocks():
                self._play(block)
                if self._stop.is_set():
                    break
            self.report.interrupted = self._stop.is_set()
            self._end()
        self.report.seconds = round(time.monotonic() - started, 3)
        return self.report

    def _play(self, block: ChannelBlock) -> None:
        self._books.put(snapshot_packets(self._channel.session, block.first - 1, block.books))
        fates = [line.fates(len(block.packets)) for line in self._lines]
        dropped = np.array([one.dropped for one in fates])
        due = np.array([one.due_micros for one in block.packets], np.int64)
        done = 0
        while not self._stop.is_set():
            now = time.time_ns() // 1000
            ready = int(np.searchsorted(due, now, side="right"))
            if ready > done:
                self._append(block, done, ready)
                self.report.behind_seconds = max(
                    self.report.behind_seconds, round((now - int(due[done])) / MICROS_PER_SECOND, 3)
                )
            for place in range(done, ready):
                packet = block.packets[place]
                self._note_lost(packet, bool(dropped[:, place].all()))
                for at, line in enumerate(self._lines):
                    delay = int(fates[at].delay_micros[place])
                    self._pass_on(at, line, packet, dropped=bool(dropped[at, place]), delay_micros=delay, now=now)
            done = ready
            self._send_held(now)
            self._heartbeats("heartbeat")
            self._on_progress(self.report)
            if done == len(block.packets):
                return
            self._stop.wait(SLICE_SECONDS)

    def _append(self, block: ChannelBlock, done: int, ready: int) -> None:
        """To the history before it is sent: who misses it may ask at once."""
        first, last = block.packets[done].first, block.packets[ready - 1].last
        self._history.append(block.messages[first - block.first : last + 1 - block.first])
        self._next_sequence = last + 1
        self.report.messages += last + 1 - first
        self.report.packets += ready - done

    def _pass_on(self, at: int, line: Line, packet: ReadyPacket, *, dropped: bool, delay_micros: int, now: int) -> None:
        told = self.report.lines[line.name]
        if dropped:
            told.dropped_packets += 1
            told.dropped_messages += packet.last + 1 - packet.first
            self._tell("dropped", line.name, packet)
        elif delay_micros:
            told.delayed_packets += 1
            line.hold(packet, now + delay_micros)
            self._tell("delayed", line.name, packet, delay_micros=delay_micros)
        else:
            self._send(at, line.name, packet)

    def _send(self, at: int, name: str, packet: ReadyPacket) -> None:
        told = self.report.lines[name]
        told.packets += 1
        told.messages += packet.last + 1 - packet.first
        self._send_bytes(at, name, packet.data)

    def _send_bytes(self, at: int, name: str, data: bytes) -> None:
        self._spoke[name] = time.monotonic()
        try:
            self._sockets[at].send(data)
        except ConnectionRefusedError:
            # Nobody listens on this line: as on a wire, that is none of ours
            return

    def _send_held(self, now: int | None) -> None:
        for at, line in enumerate(self._lines):
            for packet in line.released(now):
                self._send(at, line.name, packet)

    def _heartbeats(self, kind: PacketKind) -> None:
        data = encode_packet(Packet(self._channel.session, self._next_sequence, (), kind))
        for at, name in enumerate(LINE_NAMES):
            if time.monotonic() - self._spoke[name] >= HEARTBEAT_SECONDS:
                self._send_bytes(at, name, data)

    def _note_lost(self, packet: ReadyPacket, lost: bool) -> None:
        if not lost:
            return
        self.report.lost_messages += packet.last + 1 - packet.first
        self.report.lost_ranges += packet.first != self._lost_upto + 1
        self._lost_upto = packet.last
        self._tell("lost", None, packet)

    def _end(self) -> None:
        """The session is over: said again and again while the server still answers."""
        until = time.monotonic() + self._plan.linger_seconds
        self._send_held(None)
        self._spoke = dict.fromkeys(LINE_NAMES, 0.0)
        self._heartbeats("end")
        while (left := until - time.monotonic()) > 0 and not self._stop.wait(min(left, SLICE_SECONDS * 4)):
            self._heartbeats("end")

    def _tell(self, what: str, line: str | None, packet: ReadyPacket, **more: int) -> None:
        if self._truth is None:
            return
        told = {
            "what": what,
            "line": line,
            "session": self._channel.session,
            "first": packet.first,
            "last": packet.last,
        }
        self._truth.write(json.dumps({**told, **more}) + "\n")
        self._truth.flush()


@contextmanager
def _connected(address: Address) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.connect(address)
        except OSError as error:
            raise ConfigurationError(
                f"{address[0]}:{address[1]} cannot be sent to: {error}", advice="valid: an address and a port"
            ) from error
        yield sender
