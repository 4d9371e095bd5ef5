"""Asks a retransmission server: single packets over UDP, many messages and books over TCP."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from k2_dagster.errors import PacketInvalid, VenueUnavailable
from k2_dagster.feeds.mold.packets import MOST_DATAGRAM_BYTES, Packet, decode_packet
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
    decode_refusal,
    encode_request,
    frame,
    is_refusal,
)

Address = tuple[str, int]

# A server on the same continent answers within a tenth of it.
UDP_SECONDS = 0.5
# To connect, and for each part of an answer.
TCP_SECONDS = 5.0
# One more datagram is looked at this often when one came that was not the answer (of an earlier request, say).
MOST_STRANGERS = 10
MILLISECONDS_PER_SECOND = 1_000


def ask_packet(address: Address, request: Request, timeout_seconds: float = UDP_SECONDS) -> Packet | Refusal:
    """One packet that begins with the first message asked for. Raises VenueUnavailable."""
    with _unavailable(address), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(timeout_seconds)
        asking.connect(address)
        asking.send(encode_request(request))
        for _ in range(MOST_STRANGERS):
            data = asking.recv(MOST_DATAGRAM_BYTES)
            if is_refusal(data):
                return decode_refusal(data)
            packet = decode_packet(data)
            if (packet.session, packet.sequence) == (request.session, request.sequence) and packet.messages:
                return packet
        raise PacketInvalid(f"{MOST_STRANGERS} packets were no answer", advice="is this a retransmission server?")


def ask_range(address: Address, request: Request) -> Iterator[Packet | Refusal]:
    """Packets of what was asked for, in order; the server may give fewer. Or a refusal. Raises VenueUnavailable."""
    expected, last = request.sequence, request.sequence + request.count - 1
    for packet in _conversation(address, REQUEST, encode_request(request), PACKET):
        if isinstance(packet, Refusal):
            yield packet
            return
        fits = packet.session == request.session and packet.sequence == expected
        if not (fits and packet.messages and packet.next_sequence - 1 <= last):
            raise _unavailable_for(
                address, f"it answered with {packet.session} {packet.sequence} instead of {expected}"
            )
        expected = packet.next_sequence
        yield packet


@dataclass(frozen=True, slots=True)
class BooksAnswer:
    """Books that hold what was sent below `next_sequence` of a session, as messages."""

    session: str
    next_sequence: int
    messages: list[bytes]


def ask_books(address: Address) -> BooksAnswer | Refusal:
    """The books as they were a moment ago. Raises VenueUnavailable."""
    packets: list[Packet] = []
    for answer in _conversation(address, BOOKS, b"", BOOKS):
        if isinstance(answer, Refusal):
            return answer
        packets.append(answer)
    if len({(one.session, one.sequence) for one in packets}) != 1:
        raise _unavailable_for(address, "its books are not of one moment")
    messages = [message for one in packets for message in one.messages]
    return BooksAnswer(packets[0].session, packets[0].sequence, messages)


def wait_seconds(refusal: Refusal) -> float:
    """After which it may be asked again; 0 where that is of no use."""
    return refusal.wait_milliseconds / MILLISECONDS_PER_SECOND


def is_temporary(refusal: Refusal) -> bool:
    """Whether asking again later may help."""
    return refusal.reason in (Reason.TOO_MANY, Reason.BUSY, Reason.NOT_SENT)


def _conversation(address: Address, kind: int, payload: bytes, expected: int) -> Iterator[Packet | Refusal]:
    with _unavailable(address), socket.create_connection(address, TCP_SECONDS) as asking:
        asking.sendall(frame(kind, payload))
        while True:
            length, answered = FRAME.unpack(_exactly(asking, FRAME.size))
            if not length:
                raise PacketInvalid("a frame had no type", advice="see feeds/mold/requests.py")
            data = _exactly(asking, length - 1)
            if answered == REFUSED:
                yield decode_refusal(data)
                return
            if answered == COMPLETE:
                return
            if answered != expected:
                raise PacketInvalid(f"a frame was of type {answered}", advice="see feeds/mold/requests.py")
            yield decode_packet(data)


def _exactly(asking: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = asking.recv(size - len(parts))
        if not part:
            raise ConnectionResetError("the server ended the conversation within its answer")
        parts += part
    return bytes(parts)


@contextmanager
def _unavailable(address: Address) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise _unavailable_for(address, "it did not answer in time") from error
    except OSError as error:
        raise _unavailable_for(address, str(error)) from error
    except PacketInvalid as error:
        raise _unavailable_for(address, f"its answer is none: {error.message}") from error


def _unavailable_for(address: Address, why: str) -> VenueUnavailable:
    return VenueUnavailable(
        f"retransmission server {address[0]}:{address[1]}: {why}", advice="is it running, and reachable from here?",
        address=f"{address[0]}:{address[1]}",
    )  # fmt: skip
