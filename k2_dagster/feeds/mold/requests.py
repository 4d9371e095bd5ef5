"""What is asked of a retransmission server, and its answers, over UDP and TCP.

UDP has MoldUDP64's request, and one downstream packet or a refusal as its answer. A refusal is ours: a header whose
count is 0xFFFE and whose number is the one asked for, then reason (1), milliseconds to wait (4), the first number that
can be had (8) and the number that comes next (8).

TCP is for many messages. Both sides send frames as SoupBinTCP has them (length of what follows (2), type (1)):

    R  client    a request, as above                 S  server   a downstream packet, as often as needed
    B  client    books as they are now               B  server   a downstream packet whose number is that of the last
                                                                 message that is in the books, plus one
                                                     X  server   a refusal instead
                                                     E  server   the answer is complete
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from k2_dagster.errors import PacketInvalid
from k2_dagster.feeds.mold.packets import HEADER, REFUSAL_COUNT, decode_header, encode_header

FRAME = struct.Struct(">HB")
_REFUSAL = struct.Struct(">BIQQ")
# One request asks for so many at most; who wants more asks again.
MOST_REQUESTED = 0xFFFF
REQUEST, BOOKS, PACKET, REFUSED, COMPLETE = (ord(letter) for letter in "RBSXE")
MOST_FRAME_BYTES = 0xFFFF
LONGEST_WAIT_MILLISECONDS = 0xFFFF_FFFF


class Reason(IntEnum):
    """Why a server does not answer a request."""

    TOO_MANY = 1
    EXPIRED = 2
    NOT_SENT = 3
    OTHER_SESSION = 4
    BUSY = 5


@dataclass(frozen=True, slots=True)
class Request:
    """Messages `sequence` to `sequence` + `count` - 1 of a session."""

    session: str
    sequence: int
    count: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """`wait_milliseconds`: ask again after it (0: asking again is of no use). What can be had begins at `available`;
    `next_sequence` was not sent yet."""

    session: str
    sequence: int
    reason: Reason
    wait_milliseconds: int
    available: int
    next_sequence: int


def encode_request(request: Request) -> bytes:
    """Raises ValueError for what has no such form."""
    if not 1 <= request.count <= MOST_REQUESTED:
        raise ValueError(f"count was {request.count}; valid: 1 to {MOST_REQUESTED}")
    return encode_header(request.session, request.sequence, request.count)


def decode_request(data: bytes) -> Request:
    """Raises PacketInvalid."""
    session, sequence, count = decode_header(data)
    if len(data) != HEADER.size or not count:
        raise PacketInvalid(
            f"a request had {len(data)} bytes and asked for {count}", advice=f"valid: {HEADER.size}, for 1 or more"
        )
    return Request(session, sequence, count)


def encode_refusal(refusal: Refusal) -> bytes:
    """A longer wait than can be said is said as the longest. Raises ValueError for what has no such form."""
    header = encode_header(refusal.session, refusal.sequence, REFUSAL_COUNT)
    wait = min(refusal.wait_milliseconds, LONGEST_WAIT_MILLISECONDS)
    return header + _REFUSAL.pack(refusal.reason, wait, refusal.available, refusal.next_sequence)


def is_refusal(data: bytes) -> bool:
    """Whether a packet says that it is one."""
    return len(data) >= HEADER.size and HEADER.unpack_from(data)[2] == REFUSAL_COUNT


def decode_refusal(data: bytes) -> Refusal:
    """Raises PacketInvalid."""
    session, sequence, count = decode_header(data)
    if count != REFUSAL_COUNT or len(data) != HEADER.size + _REFUSAL.size:
        raise PacketInvalid(f"a refusal had {len(data)} bytes and count {count}", advice="see feeds/mold/requests.py")
    reason, wait, available, next_sequence = _REFUSAL.unpack_from(data, HEADER.size)
    try:
        return Refusal(session, sequence, Reason(reason), wait, available, next_sequence)
    except ValueError as error:
        valid = ", ".join(str(one.value) for one in Reason)
        raise PacketInvalid(f"the reason of a refusal was {reason}", advice=f"valid: {valid}") from error


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One frame of the TCP conversation. Raises ValueError for a payload that is too large."""
    if len(payload) >= MOST_FRAME_BYTES:
        raise ValueError(f"a frame had {len(payload)} bytes; valid: up to {MOST_FRAME_BYTES - 1}")
    return FRAME.pack(len(payload) + 1, kind) + payload
