"""IEX TOPS 1.6 network captures: trade reports and breaks, quote updates, and what the channel itself says.

Sequence numbers belong to a channel that all symbols share, so the channel is judged here, over every message of every
type; gaps, sessions and heartbeats become control rows.
"""

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.block import Block, Refusal, in_file_order, times, wire_batch
from k2_dagster.feeds.capture.iex_rows import (
    LAYOUTS,
    TRADES_STREAM,
    Message,
    build_rows,
    common_columns,
    heartbeat_rows,
)
from k2_dagster.feeds.capture.pcap import Packet, is_pcap, read_packets
from k2_dagster.feeds.capture.source import Source
from k2_dagster.feeds.channels import Event, FeedState, Grace, judge, open_holes
from k2_dagster.schemas.control import NO_SYMBOL
from k2_dagster.schemas.declaration import MAX_SEQUENCE
from k2_dagster.schemas.topics import CONTROL_DATASET

# version, reserved, protocol, channel, session, payload length, messages, stream offset, first sequence, send time
_HEADER = struct.Struct("<BBHIIHHqqq")
_LENGTH = struct.Struct("<H")
_VERSION, _TOPS_1_6 = 1, 0x8003

# Types that carry no trade or quote: counted, and part of the channel's sequence.
_ADMINISTRATIVE = {
    b"D": "security directory", b"H": "trading status", b"O": "operational halt", b"P": "short sale price test",
    b"A": "auction information", b"X": "official price", b"E": "security event", b"I": "retail liquidity",
}  # fmt: skip
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
class _Found:
    """What the packets of one block hold."""

    by_type: dict[bytes, list[Message]] = field(default_factory=dict)
    channel: list[Message] = field(default_factory=list)
    heartbeats: list[Message] = field(default_factory=list)
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
    for places, dataset, batch in channel.rows(found):
        parts.setdefault(dataset, []).append((places, batch))
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
    if not 0 <= first <= MAX_SEQUENCE:
        found.inputs += 1
        found.refusals.append(Refusal(packet.number, payload, f"first sequence {first} is not a sequence"))
        return
    bodies = _split(payload[_HEADER.size : _HEADER.size + length], count)
    if bodies is None:
        # Its numbers never arrive at the judge, so the channel shows them as missing.
        found.inputs += max(count, 1)
        found.refusals.append(Refusal(packet.number, payload, f"does not hold the {count} messages that it announces"))
        return

    def message(sequence: int, body: bytes) -> Message:
        found.inputs += 1
        return Message(found.inputs, packet.number, packet.nanos, str(channel), str(session), sequence, body)

    if not bodies:
        found.heartbeats.append(message(first, b""))
    for place, body in enumerate(bodies):
        _take_message(message(first + place, body), found)


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


def _take_message(message: Message, found: _Found) -> None:
    kind, size = message.body[:1], len(message.body)
    found.channel.append(message)
    if kind in LAYOUTS and size == LAYOUTS[kind].itemsize:
        found.by_type.setdefault(kind, []).append(message)
    elif kind in LAYOUTS:
        reason = f"type {kind.decode()} has {size} bytes, expected {LAYOUTS[kind].itemsize}"
        found.refusals.append(Refusal(message.packet, message.body, reason))
    else:
        found.skipped[_ADMINISTRATIVE.get(kind, f"type {kind!r}")] += 1


class _Channel:
    """Turns messages into rows, and judges their channel across blocks."""

    def __init__(self, exchange: str, grace: Grace) -> None:
        self._exchange = exchange
        self._grace = grace
        self._state: FeedState = {}
        self._last_receive = 0

    def rows(self, found: _Found) -> Iterator[tuple[Int64s, str, pa.RecordBatch]]:
        """(places, dataset, rows) of each kind there is; what cannot be a row is added to the refusals."""
        for kind, messages in found.by_type.items():
            parts, refusals = build_rows(self._exchange, kind, messages)
            found.refusals += refusals
            yield from parts
        if found.heartbeats:
            places = np.array([one.place for one in found.heartbeats], np.int64)
            yield places, CONTROL_DATASET, heartbeat_rows(self._exchange, found.heartbeats)
        if found.channel:
            yield from self._judge(found.channel)

    def finish(self) -> pa.RecordBatch | None:
        """The capture ends: what is still missing is a gap."""
        events = open_holes(self._state, 0, dict.fromkeys(self._state, TRADES_STREAM))
        return self._told(events, np.full(len(events), self._last_receive, np.int64)) if events else None

    def _judge(self, messages: Sequence[Message]) -> Iterator[tuple[Int64s, str, pa.RecordBatch]]:
        receive = np.array([one.receive_nanos for one in messages], np.int64)
        common = common_columns(self._exchange, messages)
        placeholders = {"kind": "heartbeat", "symbol": NO_SYMBOL, **times("exchange", receive)}
        judged = wire_batch(CONTROL_DATASET, len(messages), {**common, **placeholders})
        self._last_receive = int(receive[-1])
        self._state, events = judge(self._state, judged, self._grace)
        if events:
            rows = [event.row for event in events]
            places = np.array([messages[row].place for row in rows], np.int64)
            yield places, CONTROL_DATASET, self._told(events, receive[rows])

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
