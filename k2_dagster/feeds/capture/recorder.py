"""The line format of the recorder that the Coinbase and Kraken captures come from.

`<seconds>: <json>` came from the venue, `<address> <- <json>` was sent, `<address> <-> <seconds>` is a connection.
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
    connected = _CONNECTED.match(line)
    if connected:
        received = Received(_nanos(connected[2], connected[3]), b"", _is_finer(connected[3]))
        address = connected[1].decode(errors="replace")
        collector.add(CONNECTION, received.event(number, line, {"address": address}))
    elif _SENT.match(line):
        collector.skip(number, "sent by the client")
    elif not line.strip():
        collector.skip(number, "empty line")
    else:
        collector.refuse(number, line, "expected `<seconds>: <json>`")
    return None


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
        "state": "connected",
        "reason": texts(events, "address"),
        **receiver_time(events),
    }


CONNECTION = Stream("connection", CONTROL_DATASET, "connection", _connections, no_symbol)
