"""IEX TOPS 1.6 network captures: trade reports and breaks, quote updates, and what the channel itself says.

Sequence numbers belong to a channel that all symbols share, and all message types: everything that it carried is handed
to the feed handler, which judges it.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.block import Block, Refusal, Rows, Skip, in_file_order
from k2_dagster.feeds.capture.iex_rows import BUILDERS, LAYOUTS, Message, arrived, build_rows, refusal
from k2_dagster.feeds.capture.pcap import Packet, is_pcap, read_packets
from k2_dagster.feeds.capture.source import Source
from k2_dagster.schemas.declaration import MAX_SEQUENCE
from k2_dagster.schemas.topics import CONTROL_DATASET

# version, reserved, protocol, channel, session, payload length, messages, stream offset, first sequence, send time
_HEADER = struct.Struct("<BBHIIHHqqq")
# What an IEX-TP header begins with: version, reserved, protocol.
_OPENING = struct.Struct("<BBH")
_LENGTH = struct.Struct("<H")
_VERSION, _TOPS_1_6 = 1, 0x8003

# Types that carry no trade or quote: counted, and part of the channel's sequence.
_ADMINISTRATIVE = {
    b"H": "trading status", b"O": "operational halt", b"P": "short sale price test",
    b"A": "auction information", b"X": "official price", b"E": "security event", b"I": "retail liquidity",
}  # fmt: skip


def recognises(source: Source) -> bool:
    """Whether the content is a network capture (the only ones known are IEX's)."""
    return is_pcap(source)


def read(source: Source, exchange: str) -> Iterator[Block]:
    """Blocks of a TOPS capture. Packets of other protocols are skipped; raises CaptureInvalid when all are."""
    reader = _Reader(exchange)
    for packets in read_packets(source):
        yield reader.block(packets)
    if reader.strange and not reader.known:
        raise CaptureInvalid(
            f"{source.path}: no packet is IEX-TP 1 with TOPS 1.6; {reader.strange}",
            advice="expected version 1, protocol 0x8003 (TOPS 1.6)",
            path=str(source.path),
        )


@dataclass
class _Found:
    """What the packets of one block hold."""

    by_type: dict[bytes, list[Message]] = field(default_factory=dict)
    channel: list[Message] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)


class _Reader:
    """Takes packets apart, counting what they hold: an input is a message, a heartbeat, or a packet that is neither.

    `known`: packets of TOPS 1.6 so far. `strange`: what the first UDP packet was that is none.
    """

    def __init__(self, exchange: str) -> None:
        self._exchange = exchange
        self._inputs = 0
        self.known = 0
        self.strange = ""

    def block(self, packets: Sequence[Packet]) -> Block:
        """The packets as rows, refusals and skips."""
        first, found = self._inputs, _Found()
        for packet in packets:
            self._take(packet, found)
        parts: dict[str, list[Rows]] = {}
        for kind, messages in found.by_type.items():
            rows, refusals = build_rows(self._exchange, kind, messages)
            found.refusals += refusals
            parts.setdefault(BUILDERS[kind][0], []).extend(rows)
        by_dataset = {dataset: in_file_order(one) for dataset, one in parts.items() if one}
        system = by_dataset.pop(CONTROL_DATASET, None)
        refusals = sorted(found.refusals, key=lambda one: one.order)
        arrivals = arrived(self._exchange, found.channel, system) if found.channel else None
        return Block(first, self._inputs - first, by_dataset, refusals, found.skips, arrivals)

    def _take(self, packet: Packet, found: _Found) -> None:
        payload = packet.payload
        if payload is None:
            found.skips.append(Skip(self._next(), "not UDP"))
        elif packet.damage:
            found.refusals.append(Refusal(self._next(), packet.number, payload, packet.damage))
        elif not _is_tops(payload):
            found.skips.append(Skip(self._next(), "UDP, not TOPS 1.6"))
            self.strange = self.strange or _described(packet.number, payload)
        elif len(payload) < _HEADER.size:
            found.refusals.append(Refusal(self._next(), packet.number, payload, "shorter than an IEX-TP header"))
        else:
            self.known += 1
            self._take_messages(packet, payload, found)

    def _take_messages(self, packet: Packet, payload: bytes, found: _Found) -> None:
        _, _, _, channel, session, length, count, _, first, sent = _HEADER.unpack_from(payload)
        if not 0 <= first <= MAX_SEQUENCE:
            reason = f"first sequence {first} is not a sequence"
            found.refusals.append(Refusal(self._next(), packet.number, payload, reason))
            return
        bodies = _split(payload[_HEADER.size : _HEADER.size + length], count)
        if bodies is None:
            # Its numbers never arrive at the judge, so the channel shows them as missing.
            reason = f"does not hold the {count} messages that it announces"
            found.refusals.append(Refusal(self._next(), packet.number, payload, reason))
            return
        for place, body in enumerate(bodies or [b""]):
            message = Message(
                self._next(), packet.number, packet.nanos, packet.finer, sent, str(channel), str(session),
                first + place, body,
            )  # fmt: skip
            found.channel.append(message)
            if body:
                _sort(message, found)

    def _next(self) -> int:
        self._inputs += 1
        return self._inputs - 1


def _is_tops(payload: bytes) -> bool:
    if len(payload) < _OPENING.size:
        return False
    version, _, protocol = _OPENING.unpack_from(payload)
    return bool((version, protocol) == (_VERSION, _TOPS_1_6))


def _described(number: int, payload: bytes) -> str:
    if len(payload) < _OPENING.size:
        return f"packet {number} has {len(payload)} bytes"
    version, _, protocol = _OPENING.unpack_from(payload)
    return f"packet {number} has version {version}, protocol {protocol:#06x}"


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


def _sort(message: Message, found: _Found) -> None:
    kind, size = message.body[:1], len(message.body)
    if kind in LAYOUTS and size == LAYOUTS[kind].itemsize:
        found.by_type.setdefault(kind, []).append(message)
    elif kind in LAYOUTS:
        reason = f"type {kind.decode()} has {size} bytes, expected {LAYOUTS[kind].itemsize}"
        found.refusals.append(refusal(message, reason, CONTROL_DATASET))
    else:
        found.skips.append(Skip(message.order, _ADMINISTRATIVE.get(kind, f"type {kind!r}")))
