"""The retransmission server of a simulated exchange: one address, requests over UDP and over TCP."""

import logging
import socket
import socketserver
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from k2_dagster.errors import ConfigurationError, PacketInvalid
from k2_dagster.feeds.mold.packets import HEADER, MOST_DATAGRAM_BYTES, Packet, encode_packet, packed
from k2_dagster.feeds.mold.requests import (
    BOOKS,
    COMPLETE,
    FRAME,
    PACKET,
    REFUSED,
    REQUEST,
    Reason,
    Refusal,
    Request,
    decode_request,
    encode_refusal,
    frame,
)
from k2_dagster.feeds.simulator.lines.answering import MESSAGES_PER_REQUEST, History, Rates, refused

LOG = logging.getLogger(__name__)
# Conversations at once. One more is told to come again.
MOST_CONVERSATIONS = 16
BUSY_MILLISECONDS = 1_000
# A client that says nothing for so long is cut off, and one that takes nothing.
IDLE_SECONDS = 30.0
# How often a thread looks whether it should end.
POLL_SECONDS = 0.1
# A free port of UDP may be taken in TCP.
FREE_PORT_TRIES = 10
# Messages that are looked at for one UDP packet: more than fit.
MESSAGES_PER_PACKET = 2_000


@dataclass
class ServerReport:
    """Requests that were answered, refused (by reason) and not understood; messages given again; books given."""

    answered: int = 0
    malformed: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    books: int = 0


class Books:
    """The newest snapshot, in packets. For several threads."""

    def __init__(self) -> None:
        self._packets: list[Packet] = []
        self._lock = threading.Lock()

    def put(self, packets: list[Packet]) -> None:
        """This one from now on."""
        with self._lock:
            self._packets = packets

    def get(self) -> list[Packet]:
        """Empty while there is none."""
        with self._lock:
            return self._packets


class RetransmissionServer:
    """Serves while the `with` block runs; `address` is where (port 0 finds a free one)."""

    def __init__(self, history: History, books: Books, address: tuple[str, int], rates: Rates | None = None) -> None:
        """Raises ConfigurationError when the address cannot be had."""
        self.report = ServerReport()
        self._history = history
        self._books = books
        self._rates = rates or Rates()
        self._lock = threading.Lock()
        self._conversations = threading.Semaphore(MOST_CONVERSATIONS)
        self._ending = threading.Event()
        self._tcp, self._udp = self._bound(address)
        self._udp.settimeout(POLL_SECONDS)
        self.address: tuple[str, int] = (address[0], int(self._tcp.server_address[1]))
        serve = {"poll_interval": POLL_SECONDS}
        self._threads = [
            threading.Thread(target=self._tcp.serve_forever, kwargs=serve, name="retransmission tcp", daemon=True),
            threading.Thread(target=self._serve_udp, name="retransmission udp", daemon=True),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._tcp.shutdown()
        for thread in self._threads:
            thread.join()
        self._tcp.server_close()
        self._udp.close()

    def _bound(self, address: tuple[str, int]) -> tuple["_Listener", socket.socket]:
        """Sockets of both kinds on one port."""
        tries = FREE_PORT_TRIES if address[1] == 0 else 1
        while True:
            tries -= 1
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                udp.bind(address)
                return _Listener((address[0], udp.getsockname()[1]), self), udp
            except OSError as error:
                udp.close()
                if not tries:
                    raise ConfigurationError(
                        f"{address[0]}:{address[1]} cannot be served: {error}",
                        advice="valid: a free port of an address of this machine",
                    ) from error

    def _serve_udp(self) -> None:
        while not self._ending.is_set():
            try:
                data, client = self._udp.recvfrom(MOST_DATAGRAM_BYTES)
            except TimeoutError:
                continue
            answer = self._answer_udp(data, client[0])
            if answer is not None:
                try:
                    self._udp.sendto(answer, client)
                except OSError as error:  # a client that is gone
                    LOG.info("an answer could not be sent to %s: %s", client, error)

    def _answer_udp(self, data: bytes, client: str) -> bytes | None:
        try:
            request = decode_request(data)
        except PacketInvalid:
            with self._lock:
                self.report.malformed += 1
            return None
        refusal = self.refusal(request, client)
        if refusal is not None:
            return encode_refusal(refusal)
        messages = self._history.messages(request.sequence, min(request.count, MESSAGES_PER_PACKET))
        packet = next(packed(request.session, request.sequence, messages), None)
        if packet is None:  # it expired a moment ago
            return encode_refusal(self._counted(Refusal(
                request.session, request.sequence, Reason.EXPIRED, 0, *self._history.bounds
            )))  # fmt: skip
        self._count(len(packet.messages))
        return encode_packet(packet)

    def converse(self, client: socket.socket, address: str) -> None:
        """One TCP conversation, until the client ends it or says what is not understood."""
        client.settimeout(IDLE_SECONDS)
        if not self._conversations.acquire(blocking=False):
            busy = Refusal(self._history.session, 1, Reason.BUSY, BUSY_MILLISECONDS, *self._history.bounds)
            client.sendall(frame(REFUSED, encode_refusal(self._counted(busy))))
            return
        try:
            while not self._ending.is_set():
                kind, payload = _frame_of(client)
                if kind == REQUEST:
                    self._retransmit(client, decode_request(payload), address)
                elif kind == BOOKS and not payload:
                    self._give_books(client, address)
                else:
                    raise PacketInvalid(f"a frame was of type {kind}", advice="valid: R and B")
        except PacketInvalid as error:
            with self._lock:
                self.report.malformed += 1
            LOG.info("a conversation with %s ended: %s", address, error.message)
        except (OSError, EOFError) as error:
            LOG.debug("a conversation with %s ended: %s", address, error)
        finally:
            self._conversations.release()

    def _retransmit(self, client: socket.socket, request: Request, address: str) -> None:
        refusal = self.refusal(request, address)
        if refusal is not None:
            client.sendall(frame(REFUSED, encode_refusal(refusal)))
            return
        messages = self._history.messages(request.sequence, min(request.count, MESSAGES_PER_REQUEST))
        self._count(len(messages))
        for packet in packed(request.session, request.sequence, messages):
            client.sendall(frame(PACKET, encode_packet(packet)))
        client.sendall(frame(COMPLETE))

    def _give_books(self, client: socket.socket, address: str) -> None:
        packets = self._books.get()
        whole = Request(self._history.session, 1, 1)
        with self._lock:
            wait = self._rates.wait_seconds(address, time.monotonic())
        bounds = self._history.bounds
        refusal = refused(whole, self._history.session, (1, bounds[1] + 1), wait)
        if refusal is None and not packets:
            refusal = Refusal(self._history.session, 1, Reason.NOT_SENT, BUSY_MILLISECONDS, *bounds)
        if refusal is not None:
            client.sendall(frame(REFUSED, encode_refusal(self._counted(refusal))))
            return
        for packet in packets:
            client.sendall(frame(BOOKS, encode_packet(packet)))
        with self._lock:
            self.report.books += 1
        client.sendall(frame(COMPLETE))

    def refusal(self, request: Request, client: str) -> Refusal | None:
        """Whether the client's request is refused now; counts it."""
        with self._lock:
            wait = self._rates.wait_seconds(client, time.monotonic())
        refusal = refused(request, self._history.session, self._history.bounds, wait)
        return None if refusal is None else self._counted(refusal)

    def _counted(self, refusal: Refusal) -> Refusal:
        name = refusal.reason.name.lower()
        with self._lock:
            self.report.refused[name] = self.report.refused.get(name, 0) + 1
        return refusal

    def _count(self, messages: int) -> None:
        with self._lock:
            self.report.answered += 1
            self.report.messages += messages


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], server: RetransmissionServer) -> None:
        self.server = server
        super().__init__(address, _Conversation)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  (the library's)
        """A mistake of ours ends one conversation, and is told where everything is."""
        LOG.exception("a conversation with %s failed", client_address)  # noqa: LOG004  (called within a handler)


class _Conversation(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        listener = self.server
        assert isinstance(listener, _Listener)
        listener.server.converse(self.request, self.client_address[0])


def _frame_of(client: socket.socket) -> tuple[int, bytes]:
    """The next frame. Raises EOFError at the end, PacketInvalid for one that no client sends."""
    length, kind = FRAME.unpack(_exactly(client, FRAME.size))
    if not 1 <= length <= HEADER.size + 1:
        raise PacketInvalid(f"a frame had {length} bytes", advice=f"valid from a client: 1 to {HEADER.size + 1}")
    return kind, _exactly(client, length - 1)


def _exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = client.recv(size - len(data))
        if not part:
            raise EOFError("the client has gone")
        data += part
    return data
