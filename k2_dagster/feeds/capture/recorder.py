"""The line format of the recorder that the Coinbase and Kraken captures come from, and of our own recordings.

`<seconds>: <json>` came from the venue, `<address> <- <seconds>: <json>` was sent, `<address> <-> <seconds>` is a
connection. Ours begin with a line that names their format, `<address> >-< <seconds> <why>` is the end of a connection,
and `<address> <= <seconds>: <json>` the venue's list of instruments, fetched there; in those of Binance, what came from
the venue has Binance's own form.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from k2_dagster.feeds.capture.exact import MICROSECOND_DIGITS
from k2_dagster.feeds.capture.lines import Collector, Event, Stream, receiver_time, texts
from k2_dagster.schemas.control import NO_SYMBOL
from k2_dagster.schemas.topics import CONTROL_DATASET

_RECEIVED = re.compile(rb"(\d{1,11})(?:\.(\d{1,9}))?: ")
_SENT = re.compile(rb"wss?://\S+ <- ")
_CONNECTED = re.compile(rb"(wss?://\S+) <-> (\d{1,11})(?:\.(\d{1,9}))?$")
_DISCONNECTED = re.compile(rb"(wss?://\S+) >-< (\d{1,11})(?:\.(\d{1,9}))? (.*)$")
_LISTING = re.compile(rb"https?://\S+ <= (\d{1,11})(?:\.(\d{1,9}))?: ")
_HEADER = re.compile(rb"# k2 feed ([a-z_]{1,40})(?:\n|\r|$)")


@dataclass(frozen=True, slots=True)
class Received:
    """A line that came from the venue."""

    nanos: int
    payload: bytes
    finer: bool

    def event(self, line: int, raw: bytes, data: Any) -> Event:
        """A message out of it."""
        return Event(line, raw, self.nanos, data, self.finer)


def recorded_line(collector: Collector, number: int, line: bytes) -> Received | None:
    """Split `<seconds>: <json>`. Connection, sent and empty lines are dealt with here; None then, and when refused."""
    match = _RECEIVED.match(line)
    if match:
        return Received(_nanos(match[1], match[2]), line[match.end() :], _is_finer(match[2]))
    other_line(collector, number, line, "expected `<seconds>: <json>`")
    return None


def other_line(collector: Collector, number: int, line: bytes, expected: str) -> None:
    """A line that did not come on the connection: its beginning or end, what was sent, a list of instruments, a header
    or nothing; else it is refused with what was `expected`."""
    connected, disconnected, listing = _CONNECTED.match(line), _DISCONNECTED.match(line), _LISTING.match(line)
    if connected:
        _connection(collector, number, line, connected, "connected", connected[1])
    elif disconnected:
        _connection(collector, number, line, disconnected, "disconnected", disconnected[4])
    elif listing:
        collector.list_instruments(number, _nanos(listing[1], listing[2]), line[listing.end() :])
    elif _SENT.match(line):
        collector.skip(number, "sent by the client")
    elif _HEADER.match(line):
        collector.skip(number, "header")
    elif not line.strip():
        collector.skip(number, "empty line")
    else:
        collector.refuse(number, line, expected)


def recorded_format(head: bytes) -> str | None:
    """The format that a recording of ours names in its first line; None for what is none."""
    match = _HEADER.match(head)
    return match[1].decode() if match else None


def header_line(name: str) -> bytes:
    """The first line of a recording in this format."""
    return b"# k2 feed %s" % name.encode()


def received_line(nanos: int, frame: bytes) -> bytes:
    """What came from the venue, and when (Unix nanoseconds)."""
    return b"%s: %s" % (_seconds(nanos), frame)


def sent_line(nanos: int, address: str, message: bytes) -> bytes:
    """What was sent to it."""
    return b"%s <- %s: %s" % (address.encode(), _seconds(nanos), message)


def listing_line(nanos: int, address: str, answer: bytes) -> bytes:
    """The venue's list of instruments, when it was fetched and where."""
    return b"%s <= %s: %s" % (address.encode(), _seconds(nanos), answer)


def connected_line(nanos: int, address: str) -> bytes:
    """The beginning of a connection."""
    return b"%s <-> %s" % (address.encode(), _seconds(nanos))


def disconnected_line(nanos: int, address: str, reason: str) -> bytes:
    """Its end."""
    return b"%s >-< %s %s" % (address.encode(), _seconds(nanos), reason.encode())


def _seconds(nanos: int) -> bytes:
    return b"%d.%09d" % divmod(nanos, 1_000_000_000)


def _connection(
    collector: Collector, number: int, line: bytes, match: re.Match[bytes], state: str, reason: bytes
) -> None:
    received = Received(_nanos(match[2], match[3]), b"", _is_finer(match[3]))
    told = {"state": state, "reason": reason.decode(errors="replace")}
    collector.add(CONNECTION, received.event(number, line, told))


def _nanos(seconds: bytes, fraction: bytes | None) -> int:
    return int(seconds) * 1_000_000_000 + int((fraction or b"").ljust(9, b"0"))


def _is_finer(fraction: bytes | None) -> bool:
    return len(fraction or b"") > MICROSECOND_DIGITS


def no_symbol(_: object) -> str:
    """Symbol of a message that concerns none."""
    return NO_SYMBOL


def _connections(events: Sequence[Event]) -> Mapping[str, Any]:
    return {
        "symbol": NO_SYMBOL,
        "state": texts(events, "state"),
        "reason": texts(events, "reason"),
        **receiver_time(events),
    }


CONNECTION = Stream("connection", CONTROL_DATASET, "connection", _connections, no_symbol)
