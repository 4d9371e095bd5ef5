import gzip
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from k2_dagster.errors import CaptureInvalid
from proofs.capture_truth import iex
from tests.feeds.capture.support import counts, read_whole

pytestmark = pytest.mark.captures
SAMPLE = Path("iex") / "TOPS16.pcapng.gz"
FILE_HEADER_BYTES, PACKET_HEADER_BYTES = 24, 16


def _packets(sample_data: Path) -> tuple[bytes, list[bytes]]:
    """The file's header and its packets, each with its own header."""
    with gzip.open(sample_data / SAMPLE) as stream:
        data = stream.read()
    packets, position = [], FILE_HEADER_BYTES
    while position < len(data):
        end = position + PACKET_HEADER_BYTES + struct.unpack_from("<I", data, position + 8)[0]
        packets.append(data[position:end])
        position = end
    return data[:FILE_HEADER_BYTES], packets


def test_rows_equal_the_independent_count(sample_data: Path) -> None:
    whole, truth = read_whole(sample_data / SAMPLE), iex(sample_data / SAMPLE)
    found = counts(whole)
    assert (found.rows, found.symbols, found.days) == (truth.rows, truth.symbols, truth.days)
    assert found.digests == truth.digests
    assert (truth.first, truth.last, truth.heartbeats, truth.gaps) == (1, 57_674, 237, [])
    assert whole.inputs == truth.types.total() + truth.heartbeats
    carried = {"T", "Q", "B", "S", "D"}
    assert whole.skipped.total() == sum(count for kind, count in truth.types.items() if kind not in carried)
    assert not whole.refusals


def test_the_channel_is_whole_over_all_message_types_and_judged_so(sample_data: Path) -> None:
    whole = read_whole(sample_data / SAMPLE)
    kinds = whole.arrivals["kind"].to_pylist()
    assert {kind: kinds.count(kind) for kind in set(kinds) - {None}} == {"heartbeat": 237, "session": 6}
    assert [(event.kind, event.session) for event in whole.events] == [("session", "1137508352")]
    numbers = np.concatenate([whole.tables[name]["sequence"].to_numpy() for name in ("ticks", "quotes")])
    assert len(np.unique(numbers)) == len(numbers)
    assert numbers.min() >= 1
    assert numbers.max() <= 57_674
    for name in ("ticks", "quotes"):
        table = whole.tables[name]
        assert (table["session"].unique().to_pylist(), table["channel"].unique().to_pylist()) == (["1137508352"], ["1"])
        assert (np.diff(table["sequence"].to_numpy()) > 0).all()


def test_rows_are_exact(sample_data: Path) -> None:
    ticks = read_whole(sample_data / SAMPLE).tables["ticks"]
    (row,) = ticks.filter(pc.equal(ticks["trade_id"], "128140")).to_pylist()
    assert (row["symbol"], row["price"], row["size"], row["kind"]) == ("AAPL", 14_891_000_000, 28_300_000_000, "trade")
    assert row["conditions"] == ["F", "T"]
    micros = pc.filter(ticks["exchange_timestamp"], pc.equal(ticks["trade_id"], "128140")).cast(pa.int64())[0].as_py()
    assert micros * 1000 + row["exchange_timestamp_nanos"] == 1_499_697_226_594_103_034


def test_breaks_are_busts_that_name_their_trade(sample_data: Path) -> None:
    ticks = read_whole(sample_data / SAMPLE).tables["ticks"]
    busts = ticks.filter(pc.equal(ticks["kind"], "bust")).to_pylist()
    assert len(busts) == 3
    assert busts[0]["refers_to"] == f"trade_id={busts[0]['trade_id']}"


def test_an_empty_side_has_no_price(sample_data: Path) -> None:
    quotes = read_whole(sample_data / SAMPLE).tables["quotes"]
    assert quotes["bid_price"].null_count == 24_007
    assert quotes["ask_price"].null_count == 23_862
    assert pc.min(quotes["bid_price"]).as_py() > 0


def test_a_lost_packet_is_a_gap_of_the_channel(sample_data: Path, tmp_path: Path) -> None:
    header, packets = _packets(sample_data)
    lost = next(place for place in range(9_000, 10_000) if struct.unpack_from("<H", packets[place], 16 + 42 + 14)[0])
    count, first = struct.unpack_from("<14xH8xq", packets[lost], 16 + 42)
    path = tmp_path / "x.pcap"
    path.write_bytes(header + b"".join(packets[:lost] + packets[lost + 1 :]))
    assert _gaps(path) == [(first, first + count - 1, "1")]


def _gaps(path: Path) -> list[tuple[int | None, int | None, str | None]]:
    return [(event.first, event.last, event.channel) for event in read_whole(path).events if event.kind == "gap"]


def test_the_loss_of_the_last_messages_shows_by_the_heartbeats_behind_them(sample_data: Path, tmp_path: Path) -> None:
    header, packets = _packets(sample_data)
    counts_of = [struct.unpack_from("<H", packet, 16 + 42 + 14)[0] for packet in packets]
    last = max(place for place, count in enumerate(counts_of) if count)
    assert len(packets) - last > 1, "the sample ends with heartbeats"
    count, first = struct.unpack_from("<14xH8xq", packets[last], 16 + 42)
    path = tmp_path / "x.pcap"
    path.write_bytes(header + b"".join([*packets[:last], *packets[last + 1 :]]))
    assert _gaps(path) == [(first, first + count - 1, "1")]


def test_control_rows_have_the_time_that_the_venue_sent_them(sample_data: Path) -> None:
    whole = read_whole(sample_data / SAMPLE)
    _, packets = _packets(sample_data)
    sent = [
        struct.unpack_from("<q", one, 16 + 42 + 32)[0] for one in packets if one[16 + 42 + 14 : 16 + 42 + 16] == b"\0\0"
    ]
    beats = whole.arrivals.filter(pc.equal(whole.arrivals["kind"], "heartbeat"))
    micros, rest = beats["exchange_timestamp"].cast(pa.int64()).to_numpy(), beats["exchange_timestamp_nanos"].to_numpy()
    assert (micros * 1000 + rest).tolist() == sent
    assert beats["exchange_timestamp_source"].null_count == len(beats)


def test_a_capture_in_microseconds_says_nothing_of_nanoseconds(sample_data: Path) -> None:
    ticks = read_whole(sample_data / SAMPLE).tables["ticks"]
    assert ticks["receive_timestamp_nanos"].null_count == len(ticks)
    assert ticks["exchange_timestamp_nanos"].null_count == 0


def test_a_torn_packet_is_refused_and_the_channel_shows_the_loss(sample_data: Path, tmp_path: Path) -> None:
    header, packets = _packets(sample_data)
    torn = next(place for place in range(9_000, 10_000) if struct.unpack_from("<H", packets[place], 16 + 42 + 14)[0])
    damaged = bytearray(packets[torn])
    damaged[16 + 42 + 40] = 0
    path = tmp_path / "x.pcap"
    path.write_bytes(
        header + b"".join([*packets[:torn], bytes(damaged), *packets[torn + 1 : 9_900], packets[9_900][:-3]])
    )
    whole = read_whole(path)
    assert [place for place, _, _, _ in whole.refusals] == [torn + 1, 9_901]
    assert [event.kind for event in whole.events].count("gap") == 1


def test_another_protocol_is_named(sample_data: Path, tmp_path: Path) -> None:
    header, packets = _packets(sample_data)
    other = bytearray(packets[0])
    struct.pack_into("<H", other, 16 + 42 + 2, 0x8004)
    path = tmp_path / "x.pcap"
    path.write_bytes(header + bytes(other))
    with pytest.raises(CaptureInvalid, match=r"packet 1.*0x8004"):
        read_whole(path)


def test_packets_of_other_protocols_are_counted_and_skipped(sample_data: Path, tmp_path: Path) -> None:
    header, packets = _packets(sample_data)
    other, short = bytearray(packets[0]), bytearray(packets[0][: 16 + 42 + 3])
    struct.pack_into("<H", other, 16 + 42 + 2, 0x8004)
    struct.pack_into("<I", short, 8, len(short) - 16)
    struct.pack_into(">H", short, 16 + 14 + 20 + 4, 8 + 3)
    path = tmp_path / "x.pcap"
    path.write_bytes(header + b"".join([bytes(other), packets[0], bytes(short), packets[1]]))
    whole = read_whole(path)
    assert (whole.skipped["UDP, not TOPS 1.6"], whole.refusals) == (2, [])
    assert whole.inputs == sum(len(block.skips) for block in whole.blocks) + sum(
        kind is not None for kind in whole.arrivals["kind"].to_pylist()
    ) + sum(len(whole.tables[name]) for name in ("ticks", "quotes"))


@pytest.mark.parametrize("first", [-1, 2**63 - 1])
def test_a_packet_whose_number_is_none_is_refused(sample_data: Path, tmp_path: Path, first: int) -> None:
    header, packets = _packets(sample_data)
    damaged = bytearray(packets[1])
    struct.pack_into("<q", damaged, 16 + 42 + 24, first)
    path = tmp_path / "x.pcap"
    path.write_bytes(header + packets[0] + bytes(damaged) + packets[2])
    assert [place for place, _, _, _ in read_whole(path).refusals] == [2]


@pytest.mark.parametrize(
    "block", [b"\1\0\0\0\x0c\0\0\0\x0c\0\0\0", b"\6\0\0\0\x0c\0\0\0\x0c\0\0\0", b"\6\0\0\0\xff\0\0\0\x0c\0\0\0"]
)
def test_a_pcapng_whose_structure_is_lost_is_refused(sample_data: Path, tmp_path: Path, block: bytes) -> None:
    path = tmp_path / "x.pcapng"
    path.write_bytes(_as_pcapng(_packets(sample_data)[1][:5], resolution=6) + block)
    with pytest.raises(CaptureInvalid, match="after packet 5"):
        read_whole(path)


@pytest.mark.parametrize(
    ("kind", "name"), [(2, "obsolete Packet Block"), (3, "Simple Packet Block, which has no time")]
)
def test_other_packet_blocks_are_refused_by_name(sample_data: Path, tmp_path: Path, kind: int, name: str) -> None:
    path = tmp_path / "x.pcapng"
    block = struct.pack("<IIII", kind, 20, 0, 0) + struct.pack("<I", 20)
    path.write_bytes(_as_pcapng(_packets(sample_data)[1][:5], resolution=6) + block)
    with pytest.raises(CaptureInvalid, match=f"after packet 5: an? {name}"):
        read_whole(path)


def _as_pcapng(packets: list[bytes], *, resolution: int) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        body += b"\0" * (-len(body) % 4)
        return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)

    out = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    out += block(
        1, struct.pack("<HHI", 1, 0, 65_535) + struct.pack("<HHB3x", 9, 1, resolution) + struct.pack("<HH", 0, 0)
    )
    for packet in packets:
        seconds, micros, captured, _ = struct.unpack_from("<IIII", packet)
        units = (seconds * 1_000_000 + micros) * 10 ** (resolution - 6)
        body = struct.pack("<IIIII", 0, units >> 32, units & 0xFFFFFFFF, captured, captured) + packet[16:]
        out += block(6, body)
    return out


@pytest.mark.parametrize("resolution", [6, 9])
def test_pcapng_gives_the_same_rows_as_pcap(sample_data: Path, tmp_path: Path, resolution: int) -> None:
    header, packets = _packets(sample_data)
    chosen = packets[7_000:9_000]
    classic, modern = tmp_path / "x.pcap", tmp_path / "x.pcapng"
    classic.write_bytes(header + b"".join(chosen))
    modern.write_bytes(_as_pcapng(chosen, resolution=resolution))
    finer = ["receive_timestamp_nanos"]
    for name, table in read_whole(classic).tables.items():
        found = read_whole(modern).tables[name]
        assert found.drop_columns(finer).equals(table.drop_columns(finer)), name
        # What is in nanoseconds says that there are none beyond the microsecond
        assert set(found[finer[0]].unique().to_pylist()) <= ({0} if resolution == 9 else {None})


def test_directory_messages_are_definitions_of_what_they_say(sample_data: Path) -> None:
    found = read_whole(sample_data / SAMPLE).tables["instruments"].to_pylist()
    assert len(found) == 10
    first = found[0]
    told = ("symbol", "canonical_symbol", "stream", "channel", "sequence", "lot_size", "venue_status", "asset_class")
    assert tuple(first[name] for name in told) == (
        "ZEXIT", "ZEXIT", "instruments", "1", 31_158, 100 * 10**8, "test security", "equities",
    )  # fmt: skip
    # The message says nothing of these
    assert {first[name] for name in ("tick_size", "quote_currency", "status", "instrument_type", "valid_from")} == {
        None
    }
