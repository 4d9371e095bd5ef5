"""IEX TOPS 1.6 network captures: trade reports and breaks, quote updates, and what the channel itself says.

Sequence numbers belong to a channel that all symbols share, so the channel is judged here, over every message of every
type; gaps, sessions and heartbeats become control rows.
"""

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.block import Block, Refusal, in_file_order, times, wire_batch
from k2_dagster.feeds.capture.exact import scaled_integers
from k2_dagster.feeds.capture.pcap import Packet, is_pcap, read_packets
from k2_dagster.feeds.capture.source import Source
from k2_dagster.feeds.channels import ChannelKey, Event, FeedState, Grace, judge, open_holes
from k2_dagster.schemas.control import NO_SYMBOL
from k2_dagster.schemas.topics import CONTROL_DATASET

# version, reserved, protocol, channel, session, payload length, messages, stream offset, first sequence, send time
_HEADER = struct.Struct("<BBHIIHHqqq")
_LENGTH = struct.Struct("<H")
_VERSION, _TOPS_1_6 = 1, 0x8003
_PRICE_UNITS = 10_000
_TRADES_STREAM, _QUOTES_STREAM = "tops", "tops_quote"

_TRADE = np.dtype(
    [("type", "S1"), ("flags", "u1"), ("time", "<i8"), ("symbol", "S8"), ("size", "<u4"), ("price", "<i8"),
     ("id", "<i8")]
)  # fmt: skip
_QUOTE = np.dtype(
    [("type", "S1"), ("flags", "u1"), ("time", "<i8"), ("symbol", "S8"), ("bid_size", "<u4"), ("bid", "<i8"),
     ("ask", "<i8"), ("ask_size", "<u4")]
)  # fmt: skip
_SYSTEM = np.dtype([("type", "S1"), ("event", "S1"), ("time", "<i8")])
_LAYOUTS = {b"T": _TRADE, b"B": _TRADE, b"Q": _QUOTE, b"S": _SYSTEM}
# Types that carry no trade or quote: counted, and part of the channel's sequence.
_ADMINISTRATIVE = {
    b"D": "security directory", b"H": "trading status", b"O": "operational halt", b"P": "short sale price test",
    b"A": "auction information", b"X": "official price", b"E": "security event", b"I": "retail liquidity",
}  # fmt: skip
_SALE_FLAGS = ((0x80, "F"), (0x40, "T"), (0x20, "I"), (0x10, "8"), (0x08, "X"))
_QUOTE_FLAGS = ((0x80, "A"), (0x40, "P"))

Int64s = NDArray[np.int64]


def recognises(source: Source) -> bool:
    """Whether the content is a network capture (the only ones known are IEX's)."""
    return is_pcap(source)


def read(source: Source, exchange: str, grace: Grace) -> Iterator[Block]:
    """Blocks of a TOPS capture. Raises CaptureInvalid when packets carry another protocol or version."""
    channel = _Channel(exchange, grace)
    for packets in read_packets(source):
        yield _read_packets(source, packets, channel)
    ended = channel.finish()
    if ended:
        yield Block(0, {CONTROL_DATASET: ended})


@dataclass
class _Messages:
    """Messages of one type: their bytes, and of each its sequence, receive time and place among the block's."""

    bytes_: list[bytes] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)
    receive: list[int] = field(default_factory=list)
    channel: list[str] = field(default_factory=list)
    session: list[str] = field(default_factory=list)
    place: list[int] = field(default_factory=list)

    def records(self, layout: np.dtype[Any]) -> NDArray[Any]:
        return np.frombuffer(b"".join(self.bytes_), layout)


@dataclass
class _Found:
    """What the packets of one block hold."""

    by_type: dict[bytes, _Messages] = field(default_factory=dict)
    order: _Messages = field(default_factory=_Messages)
    heartbeats: _Messages = field(default_factory=_Messages)
    refusals: list[Refusal] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    inputs: int = 0


def _read_packets(source: Source, packets: Sequence[Packet], channel: "_Channel") -> Block:
    found = _Found()
    for packet in packets:
        if packet.damage and packet.payload is not None:
            found.inputs += 1
            found.refusals.append(Refusal(packet.number, packet.payload, packet.damage))
        elif packet.payload is None:
            found.inputs += 1
            found.skipped["not UDP"] += 1
        else:
            _take_packet(source, packet, packet.payload, found)
    parts: dict[str, list[tuple[Int64s, pa.RecordBatch]]] = {}
    for dataset, messages, batch in channel.rows(found):
        parts.setdefault(dataset, []).append((np.array(messages, np.int64), batch))
    batches = {dataset: in_file_order(one) for dataset, one in parts.items()}
    return Block(found.inputs, batches, found.refusals, dict(found.skipped))


def _take_packet(source: Source, packet: Packet, payload: bytes, found: _Found) -> None:
    if len(payload) < _HEADER.size:
        found.inputs += 1
        found.refusals.append(Refusal(packet.number, payload, "shorter than an IEX-TP header"))
        return
    version, _, protocol, channel, session, length, count, _, first, _ = _HEADER.unpack_from(payload)
    if (version, protocol) != (_VERSION, _TOPS_1_6):
        raise CaptureInvalid(
            f"{source.path}, packet {packet.number}: IEX-TP version {version}, protocol {protocol:#06x}",
            advice="expected version 1, protocol 0x8003 (TOPS 1.6)",
            path=str(source.path),
            packet=packet.number,
        )
    bodies = _split(payload[_HEADER.size : _HEADER.size + length], count)
    if bodies is None:
        # Its numbers never arrive at the judge, so the channel shows them as missing.
        found.inputs += max(count, 1)
        found.refusals.append(Refusal(packet.number, payload, f"does not hold the {count} messages that it announces"))
        return
    if not bodies:
        found.inputs += 1
        _note(found.heartbeats, b"", packet, channel, session, first, found)
    for place, body in enumerate(bodies):
        found.inputs += 1
        _take_message(body, packet, channel, session, first + place, found)


def _split(data: bytes, count: int) -> list[bytes] | None:
    bodies, position = [], 0
    for _ in range(count):
        if position + _LENGTH.size > len(data):
            return None
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size + length
        if not length or position > len(data):
            return None
        bodies.append(data[position - length : position])
    return bodies if position == len(data) else None


def _take_message(body: bytes, packet: Packet, channel: int, session: int, sequence: int, found: _Found) -> None:
    kind = body[:1]
    _note(found.order, b"", packet, channel, session, sequence, found)
    if kind in _LAYOUTS:
        if len(body) == _LAYOUTS[kind].itemsize:
            _note(found.by_type.setdefault(kind, _Messages()), body, packet, channel, session, sequence, found)
        else:
            reason = f"type {kind.decode()} has {len(body)} bytes, expected {_LAYOUTS[kind].itemsize}"
            found.refusals.append(Refusal(packet.number, body, reason))
    elif kind in _ADMINISTRATIVE:
        found.skipped[_ADMINISTRATIVE[kind]] += 1
    else:
        found.skipped[f"type {kind!r}"] += 1


def _note(
    messages: _Messages, body: bytes, packet: Packet, channel: int, session: int, sequence: int, found: _Found
) -> None:
    messages.bytes_.append(body)
    messages.sequence.append(sequence)
    messages.receive.append(packet.nanos)
    messages.channel.append(str(channel))
    messages.session.append(str(session))
    messages.place.append(found.inputs)


class _Channel:
    """Turns messages into rows, and judges their channel across blocks."""

    def __init__(self, exchange: str, grace: Grace) -> None:
        self._exchange = exchange
        self._grace = grace
        self._state: FeedState = {}
        self._streams: dict[ChannelKey, str] = {}
        self._last_receive = 0

    def rows(self, found: _Found) -> Iterator[tuple[str, list[int], pa.RecordBatch]]:
        """(dataset, places, rows) of each kind there is."""
        for kind, messages in found.by_type.items():
            if kind == b"S":
                yield from self._system(messages)
            elif kind == b"Q":
                yield "quotes", messages.place, self._batch("quotes", _QUOTES_STREAM, messages, _quotes(messages))
            else:
                yield "ticks", messages.place, self._batch("ticks", _TRADES_STREAM, messages, _trades(messages, kind))
        if found.heartbeats.place:
            beats = found.heartbeats
            receive = np.array(beats.receive, np.int64)
            columns = {"kind": "heartbeat", "symbol": NO_SYMBOL, **times("exchange", receive)}
            # A heartbeat announces the number that comes next; it has none of its own.
            rows = self._batch(CONTROL_DATASET, _TRADES_STREAM, beats, {**columns, "sequence": None})
            yield CONTROL_DATASET, beats.place, rows
        if found.order.place:
            yield from self._judge(found.order)

    def finish(self) -> pa.RecordBatch | None:
        """The capture ends: what is still missing is a gap."""
        events = open_holes(self._state, 0, dict.fromkeys(self._state, _TRADES_STREAM))
        return self._told(events, np.full(len(events), self._last_receive, np.int64)) if events else None

    def _batch(self, dataset: str, stream: str, messages: _Messages, columns: dict[str, Any]) -> pa.RecordBatch:
        common = {
            "exchange": self._exchange,
            "stream": stream,
            "session": messages.session,
            "channel": messages.channel,
            "sequence": messages.sequence,
            **times("receive", np.array(messages.receive, np.int64)),
        }
        return wire_batch(dataset, len(messages.place), {**common, **columns})

    def _system(self, messages: _Messages) -> Iterator[tuple[str, list[int], pa.RecordBatch]]:
        records = messages.records(_SYSTEM)
        states = {b"O": "started", b"C": "ended"}
        names = {b"O": "start of messages", b"S": "start of system hours", b"R": "start of regular hours",
                 b"M": "end of regular hours", b"E": "end of system hours", b"C": "end of messages"}  # fmt: skip
        events = records["event"].tolist()
        columns = {
            "kind": "session",
            "symbol": NO_SYMBOL,
            **times("exchange", records["time"]),
            "state": [states.get(event) for event in events],
            "reason": [names.get(event, f"system event {event!r}") for event in events],
        }
        yield CONTROL_DATASET, messages.place, self._batch(CONTROL_DATASET, _TRADES_STREAM, messages, columns)

    def _judge(self, order: _Messages) -> Iterator[tuple[str, list[int], pa.RecordBatch]]:
        receive = np.array(order.receive, np.int64)
        size = len(order.place)
        judged = wire_batch(
            CONTROL_DATASET,
            size,
            {"exchange": self._exchange, "stream": _TRADES_STREAM, "kind": "heartbeat", "symbol": NO_SYMBOL,
             "session": order.session, "channel": order.channel, "sequence": order.sequence,
             **times("receive", receive), **times("exchange", receive)},
        )  # fmt: skip
        self._last_receive = int(receive[-1])
        self._state, events = judge(self._state, judged, self._grace)
        if events:
            rows = [event.row for event in events]
            yield CONTROL_DATASET, [order.place[row] for row in rows], self._told(events, receive[rows])

    def _told(self, events: Sequence[Event], receive: Int64s) -> pa.RecordBatch:
        return wire_batch(
            CONTROL_DATASET,
            len(events),
            {
                "exchange": self._exchange,
                "stream": [event.stream for event in events],
                "kind": [event.kind for event in events],
                "symbol": NO_SYMBOL,
                "session": [event.session for event in events],
                "channel": [event.channel for event in events],
                **times("receive", receive),
                **times("exchange", receive),
                "first_sequence": [event.first for event in events],
                "last_sequence": [event.last for event in events],
                "state": [None if event.kind == "gap" else "started" for event in events],
                "reason": [
                    "these numbers of the channel are not in the capture" if event.kind == "gap"
                    else "the packets name a new session" for event in events
                ],
            },
        )  # fmt: skip


def _symbols(records: NDArray[Any]) -> list[str]:
    return [symbol.decode("latin-1") for symbol in np.char.rstrip(records["symbol"], b" ").tolist()]


def _conditions(flags: NDArray[np.uint8], meaning: Sequence[tuple[int, str]]) -> list[list[str]]:
    lists = [[letter for bit, letter in meaning if value & bit] for value in range(256)]
    return [lists[value] for value in flags.tolist()]


def _trades(messages: _Messages, kind: bytes) -> dict[str, Any]:
    records = messages.records(_TRADE)
    ids = [str(one) for one in records["id"].tolist()]
    return {
        "kind": "trade" if kind == b"T" else "bust",
        "symbol": _symbols(records),
        **times("exchange", records["time"]),
        "trade_id": ids,
        "price": scaled_integers(records["price"], _PRICE_UNITS, "price"),
        "size": scaled_integers(records["size"].astype(np.int64), 1, "size"),
        "side": "unknown",
        "conditions": _conditions(records["flags"], _SALE_FLAGS),
        "refers_to": [f"trade_id={one}" for one in ids] if kind == b"B" else None,
    }


def _quotes(messages: _Messages) -> dict[str, Any]:
    records = messages.records(_QUOTE)
    columns: dict[str, Any] = {
        "kind": "quote",
        "symbol": _symbols(records),
        **times("exchange", records["time"]),
        "conditions": _conditions(records["flags"], _QUOTE_FLAGS),
    }
    for side in ("bid", "ask"):
        prices = scaled_integers(records[side], _PRICE_UNITS, side)
        # Price 0 is the venue's way to say that the side is empty.
        columns[f"{side}_price"] = pa.array(np.asarray(prices), mask=records[side] == 0)
        columns[f"{side}_size"] = scaled_integers(records[f"{side}_size"].astype(np.int64), 1, f"{side}_size")
    return columns
