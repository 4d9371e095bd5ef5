"""The sockets of a pair of lines, and what came on them and waits: a thread and a queue with a bound."""

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.mold.packets import MOST_DATAGRAM_BYTES, Packet

Address = tuple[str, int]

# Packets that wait to be published: a second or two of a busy exchange. When it is full, packets are dropped and
# counted: a line that is not read is lost anyway, and then in the kernel, where nobody counts.
QUEUE_PACKETS = 50_000
QUEUE_BYTES = 67_108_864
# Asked of the kernel for each socket; it may give less (net.core.rmem_max).
SOCKET_BYTES = 8_388_608
# Packets that are taken from one socket before the other is looked at.
BURST_PACKETS = 64
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came on a line, as bytes or (of the retransmission server) understood; `nanos` is of the monotonic clock."""

    line: str
    nanos: int
    data: bytes | Packet


class Intake:
    """Filled by several threads, emptied by one. Receives while the `with` block runs."""

    def __init__(self, lines: Mapping[str, Address], most_packets: int = QUEUE_PACKETS) -> None:
        """Listens on the addresses from now on. Raises ConfigurationError when one cannot be had."""
        self.dropped = 0
        self._most_packets = most_packets
        self._waiting: deque[Arrival] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._sockets: dict[socket.socket, str] = {}
        for line, address in lines.items():
            self._sockets[self._listening(address)] = line
        self.addresses = {line: one.getsockname() for one, line in self._sockets.items()}
        self._thread = threading.Thread(target=self._receive, name="lines", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._close()

    def put(self, line: str, data: bytes | Packet) -> None:
        """Add with the time of now; dropped when the queue is full."""
        with self._changed:
            self._put(Arrival(line, time.monotonic_ns(), data))
            self._changed.notify_all()

    def take(self, timeout_seconds: float) -> list[Arrival]:
        """Everything that waits, in order; waits for the first. Empty when the time passes."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting, timeout_seconds)
            taken = list(self._waiting)
            self._waiting.clear()
            self._bytes = 0
            return taken

    def _put(self, arrival: Arrival) -> None:
        size = len(arrival.data) if isinstance(arrival.data, bytes) else sum(map(len, arrival.data.messages))
        if len(self._waiting) >= self._most_packets or self._bytes + size > QUEUE_BYTES:
            self.dropped += 1
            return
        self._waiting.append(arrival)
        self._bytes += size

    def _receive(self) -> None:
        while not self._ending.is_set():
            ready, _, _ = select.select(list(self._sockets), [], [], POLL_SECONDS)
            got = [(self._sockets[one], data) for one in ready for data in _burst(one)]
            if not got:
                continue
            nanos = time.monotonic_ns()
            with self._changed:
                for line, data in got:
                    self._put(Arrival(line, nanos, data))
                self._changed.notify_all()

    def _listening(self, address: Address) -> socket.socket:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
            one.bind(address)
            one.setblocking(False)
        except OSError as error:
            one.close()
            self._close()
            raise ConfigurationError(
                f"{address[0]}:{address[1]} cannot be listened on: {error}",
                advice="valid: a free port of an address of this machine",
            ) from error
        return one

    def _close(self) -> None:
        for one in self._sockets:
            one.close()


def _burst(one: socket.socket) -> list[bytes]:
    out: list[bytes] = []
    try:
        while len(out) < BURST_PACKETS:
            out.append(one.recv(MOST_DATAGRAM_BYTES))
    except BlockingIOError:
        pass
    return out
