"""Packets of a line: numbered messages of a session, as MoldUDP64 has them.

The form is that of Nasdaq's "MoldUDP64 Protocol Specification", version 1.00. All numbers are big-endian:

    downstream   session (10 ASCII, spaces behind), number of the first message (8), count (2), then `count` messages,
                 each with its length (2) before it
    heartbeat    count 0; the number is that of the message that comes next
    end          count 0xFFFF; the number is that of the message that would come next. The session is over
    request      session, first number, count: 20 bytes, to a retransmission server, which answers with one downstream
                 packet of as many of them as fit

What is ours (the specification leaves a server that will not answer silent): count 0xFFFE is a refusal, see
`requests.py`. Numbers begin with 1.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from k2_dagster.errors import PacketInvalid
from k2_dagster.schemas.declaration import MAX_SEQUENCE

HEADER = struct.Struct(">10sQH")
LENGTH = struct.Struct(">H")
SESSION_BYTES = 10
MOST_MESSAGE_BYTES = 0xFFFF
END_COUNT = 0xFFFF
REFUSAL_COUNT = 0xFFFE
MOST_MESSAGES = 0xFFFD
# A packet that is not cut up on an Ethernet of 1,500 bytes: less the headers of IP and UDP, with room for tunnels.
PACKET_BYTES = 1_400
# More than UDP can carry.
MOST_DATAGRAM_BYTES = 65_535
_SESSION = re.compile(rb"[!-~]{1,10} *")

PacketKind = Literal["data", "heartbeat", "end"]


@dataclass(frozen=True, slots=True)
class Packet:
    """Messages numbered `sequence`, `sequence` + 1, ...; a heartbeat or an end has none, and `sequence` comes next."""

    session: str
    sequence: int
    messages: tuple[bytes, ...] = ()
    kind: PacketKind = "data"

    @property
    def next_sequence(self) -> int:
        """The number behind its messages."""
        return self.sequence + len(self.messages)


def encode_packet(packet: Packet) -> bytes:
    """Raises ValueError for a packet that has no such form."""
    count = {"data": len(packet.messages), "heartbeat": 0, "end": END_COUNT}[packet.kind]
    if packet.kind == "data" and not 0 < count <= MOST_MESSAGES:
        raise ValueError(f"a packet had {count} messages; valid: 1 to {MOST_MESSAGES}")
    parts = [encode_header(packet.session, packet.sequence, count)]
    for message in packet.messages:
        if len(message) > MOST_MESSAGE_BYTES:
            raise ValueError(f"a message had {len(message)} bytes; valid: up to {MOST_MESSAGE_BYTES}")
        parts += (LENGTH.pack(len(message)), message)
    return b"".join(parts)


def encode_header(session: str, sequence: int, count: int) -> bytes:
    """The 20 bytes that every packet begins with. Raises ValueError for a session or a number that has no such form."""
    name = session.encode()
    if not _SESSION.fullmatch(name) or len(name) > SESSION_BYTES or not 1 <= sequence <= MAX_SEQUENCE:
        raise ValueError(
            f"session was {session!r}, number {sequence}; valid: 1 to 10 visible ASCII characters, 1 to 2^62"
        )
    return HEADER.pack(name.ljust(SESSION_BYTES), sequence, count)


def decode_header(data: bytes) -> tuple[str, int, int]:
    """Session, number and count of a packet. Raises PacketInvalid."""
    if len(data) < HEADER.size:
        raise PacketInvalid(
            f"a packet had {len(data)} bytes", advice=f"valid: at least the {HEADER.size} of its header"
        )
    name, sequence, count = HEADER.unpack_from(data)
    if not _SESSION.fullmatch(name):
        raise PacketInvalid(f"session was {name!r}", advice="valid: visible ASCII characters, spaces behind")
    if not 1 <= sequence <= MAX_SEQUENCE - END_COUNT:
        raise PacketInvalid(f"the number of the first message was {sequence}", advice="valid: 1 to 2^62")
    return name.decode().rstrip(), sequence, count


def decode_packet(data: bytes) -> Packet:
    """Raises PacketInvalid, which says what was wrong, for anything that `encode_packet` does not make."""
    session, sequence, count = decode_header(data)
    if count in (0, END_COUNT):
        if len(data) != HEADER.size:
            raise PacketInvalid(f"a packet without messages had {len(data)} bytes", advice=f"valid: {HEADER.size}")
        return Packet(session, sequence, (), "end" if count else "heartbeat")
    if count > MOST_MESSAGES:
        raise PacketInvalid(f"the count of messages was {count}", advice=f"valid in a packet: up to {MOST_MESSAGES}")
    return Packet(session, sequence, tuple(_messages(data, count)))


def _messages(data: bytes, count: int) -> Iterator[bytes]:
    at, size = HEADER.size, len(data)
    for place in range(count):
        start = at + LENGTH.size
        if start > size or start + (length := LENGTH.unpack_from(data, at)[0]) > size:
            raise PacketInvalid(f"the packet ends within message {place + 1} of {count}", advice="it was cut short")
        at = start + length
        yield data[start:at]
    if at != size:
        raise PacketInvalid(f"{size - at} bytes follow the last of {count} messages", advice="valid: none")


def packed(session: str, first: int, messages: Sequence[bytes], most_bytes: int = PACKET_BYTES) -> Iterator[Packet]:
    """The messages, numbered from `first`, in packets of at most so many bytes (one message goes alone if it must)."""
    start, size = 0, HEADER.size
    for place, message in enumerate(messages):
        grown = size + LENGTH.size + len(message)
        if place > start and (grown > most_bytes or place - start >= MOST_MESSAGES):
            yield Packet(session, first + start, tuple(messages[start:place]))
            start, grown = place, HEADER.size + LENGTH.size + len(message)
        size = grown
    if start < len(messages):
        yield Packet(session, first + start, tuple(messages[start:]))
