"""Network captures: classic pcap and pcapng, to UDP payloads with their capture times."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.source import Source
from k2_dagster.schemas.common import LATEST_MICROS

# Byte order and nanoseconds per unit of a classic capture's times, by its first four bytes.
_CLASSIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1_000),
    b"\xa1\xb2\xc3\xd4": (">", 1_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_SECTION = b"\x0a\x0d\x0d\x0a"
_BYTE_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_INTERFACE_BLOCK, _PACKET_BLOCK = 1, 6
# Other blocks that hold packets. One without a time has no place among market data.
_UNREAD_PACKET_BLOCKS = {2: "an obsolete Packet Block", 3: "a Simple Packet Block, which has no time"}
_RESOLUTION_OPTION = 9
_ETHERNET = 1
_IPV4, _VLAN, _UDP = 0x0800, 0x8100, 17
NANOS_PER_MICRO = 1_000
# No packet or block is larger; a length above it means that the file is damaged, and must not be waited for.
MAX_PACKET_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet of the file, counted from 1. `payload` is the UDP payload, None when it is another kind of packet.
    A `damage` says why the bytes in `payload` could not be read as a packet. `finer`: its time says more than the
    microsecond."""

    number: int
    nanos: int
    payload: bytes | None
    damage: str = ""
    finer: bool = False


def is_pcap(source: Source) -> bool:
    """Whether the content starts as a network capture does."""
    return source.head[:4] in _CLASSIC or source.head[:4] == _SECTION


def read_packets(source: Source) -> Iterator[list[Packet]]:
    """Packets by block of the file. A capture cut short ends with a damaged packet. Raises CaptureInvalid for a link
    type other than Ethernet, and where the file's structure is lost."""
    magic = source.head[:4]
    reader = _Pcapng(source) if magic == _SECTION else _Classic(source, *_CLASSIC[magic])
    rest = b""
    for piece in source.blocks():
        data = rest + piece
        packets, used = reader.take(data)
        rest = data[used:]
        yield packets
    if rest:
        yield [Packet(reader.count + 1, 0, rest, "the capture ends inside a packet")]


@dataclass
class _Reader:
    source: Source
    count: int = field(default=0, init=False)

    def _packet(self, nanos: int, frame: bytes, *, finer: bool) -> Packet:
        self.count += 1
        return Packet(self.count, nanos, _udp_payload(frame), finer=finer)

    def _lost(self, what: str) -> CaptureInvalid:
        return CaptureInvalid(
            f"{self.source.path}, after packet {self.count}: {what}",
            advice="expected a pcap or pcapng file of Ethernet packets",
            path=str(self.source.path),
            packet=self.count,
        )

    def _check_link(self, link_type: int) -> None:
        if link_type != _ETHERNET:
            raise self._lost(f"link type {link_type} is not Ethernet (1)")


class _Classic(_Reader):
    def __init__(self, source: Source, order: str, unit_nanos: int) -> None:
        super().__init__(source)
        self._header = struct.Struct(order + "IIII")
        self._file_header = struct.Struct(order + "4sHHiIII")
        self._unit_nanos = unit_nanos
        self._started = False

    def take(self, data: bytes) -> tuple[list[Packet], int]:
        position, packets = 0, []
        if not self._started:
            if len(data) < self._file_header.size:
                return [], 0
            self._check_link(self._file_header.unpack_from(data)[-1])
            self._started, position = True, self._file_header.size
        while position + self._header.size <= len(data):
            seconds, fraction, captured, _ = self._header.unpack_from(data, position)
            if captured > MAX_PACKET_BYTES:
                raise self._lost(f"a packet of {captured:,} bytes")
            end = position + self._header.size + captured
            if end > len(data):
                break
            nanos = seconds * 1_000_000_000 + fraction * self._unit_nanos
            frame = data[position + self._header.size : end]
            packets.append(self._packet(nanos, frame, finer=self._unit_nanos < NANOS_PER_MICRO))
            position = end
        return packets, position


class _Pcapng(_Reader):
    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._order = "<"
        self._units: list[tuple[int, int]] = []

    def take(self, data: bytes) -> tuple[list[Packet], int]:
        position, packets = 0, []
        while position + 12 <= len(data):
            if data[position : position + 4] == _SECTION:
                self._order = _BYTE_ORDERS.get(data[position + 8 : position + 12], "")
                if not self._order:
                    raise self._lost("a section without a byte-order mark")
                self._units = []
            kind, length = struct.unpack_from(self._order + "II", data, position)
            if length % 4 or not 12 <= length <= MAX_PACKET_BYTES:
                raise self._lost(f"a block of {length:,} bytes")
            if position + length > len(data):
                break
            body = data[position + 8 : position + length - 4]
            if kind == _INTERFACE_BLOCK:
                self._interface(body)
            elif kind == _PACKET_BLOCK:
                packets.append(self._enhanced(body))
            elif kind in _UNREAD_PACKET_BLOCKS:
                raise self._lost(f"{_UNREAD_PACKET_BLOCKS[kind]}, is not read (Enhanced Packet Blocks are)")
            position += length
        return packets, position

    def _interface(self, body: bytes) -> None:
        if len(body) < 8:
            raise self._lost("an interface block without its header")
        self._check_link(struct.unpack_from(self._order + "H", body)[0])
        position, unit = 8, (1_000, 1)
        while position + 4 <= len(body):
            code, length = struct.unpack_from(self._order + "HH", body, position)
            if code == _RESOLUTION_OPTION and position + 4 < len(body):
                unit = _unit(body[position + 4])
            position += 4 + length + -length % 4
        self._units.append(unit)

    def _enhanced(self, body: bytes) -> Packet:
        if len(body) < 20:
            raise self._lost("a packet block without its header")
        interface, high, low, captured, _ = struct.unpack_from(self._order + "IIIII", body)
        if interface >= len(self._units):
            raise self._lost(f"interface {interface} is not declared")
        multiply, divide = self._units[interface]
        nanos = (high << 32 | low) * multiply // divide
        if nanos > LATEST_MICROS * 1000:
            raise self._lost("a packet time after the year 2100")
        return self._packet(nanos, body[20 : 20 + captured], finer=multiply < divide * NANOS_PER_MICRO)


def _unit(resolution: int) -> tuple[int, int]:
    """Nanoseconds per time unit, as (multiply, divide), of a pcapng resolution: a negative power of 10, or of 2."""
    exponent = resolution & 0x7F
    return 1_000_000_000, 1 << exponent if resolution & 0x80 else 10**exponent


def _udp_payload(frame: bytes) -> bytes | None:
    start = 14
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _VLAN:
        kind, start = int.from_bytes(frame[16:18], "big"), 18
    if kind != _IPV4 or len(frame) < start + 20 or frame[start + 9] != _UDP:
        return None
    udp = start + (frame[start] & 0x0F) * 4
    length = int.from_bytes(frame[udp + 4 : udp + 6], "big")
    return frame[udp + 8 : udp + length] if length >= 8 else None
