import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from k2_dagster.errors import PacketInvalid
from k2_dagster.feeds.mold.packets import (
    HEADER,
    PACKET_BYTES,
    Packet,
    decode_packet,
    encode_packet,
    packed,
)
from k2_dagster.feeds.mold.requests import (
    Reason,
    Refusal,
    Request,
    decode_refusal,
    decode_request,
    encode_refusal,
    encode_request,
    frame,
    is_refusal,
)
from k2_dagster.schemas.declaration import MAX_SEQUENCE

sessions = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=10)
numbers = st.integers(1, MAX_SEQUENCE - 0xFFFF)
messages = st.lists(st.binary(max_size=40), min_size=1, max_size=20).map(tuple)
packets = st.one_of(
    st.builds(Packet, sessions, numbers, messages),
    st.builds(Packet, sessions, numbers, st.just(()), st.sampled_from(["heartbeat", "end"])),
)


@given(packets)
def test_a_packet_comes_back_as_it_was(packet: Packet) -> None:
    assert decode_packet(encode_packet(packet)) == packet


def test_the_bytes_are_those_of_the_specification() -> None:
    assert encode_packet(Packet("S1", 258, (b"ab", b""))).hex(" ") == (
        "53 31 20 20 20 20 20 20 20 20 00 00 00 00 00 00 01 02 00 02 00 02 61 62 00 00"
    )
    assert encode_packet(Packet("S1", 1, (), "heartbeat"))[-2:] == b"\0\0"
    assert encode_packet(Packet("S1", 1, (), "end"))[-2:] == b"\xff\xff"


@given(st.binary(max_size=200))
@example(b"")
@example(b"S".ljust(10) + bytes(10))
@example(b"S".ljust(10) + (1).to_bytes(8, "big") + b"\xff\xfe")
def test_any_bytes_are_a_packet_that_gives_them_again_or_are_refused(data: bytes) -> None:
    try:
        packet = decode_packet(data)
    except PacketInvalid:
        return
    assert encode_packet(packet) == data


@given(packets, st.data())
def test_a_damaged_packet_is_refused_or_another_one(packet: Packet, data: st.DataObject) -> None:
    whole = encode_packet(packet)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(PacketInvalid):
        decode_packet(whole[:cut])
    with pytest.raises(PacketInvalid):
        decode_packet(whole + b"x")


@given(sessions, numbers, st.lists(st.binary(max_size=900), max_size=30))
def test_packets_hold_all_messages_and_fit(session: str, first: int, given_messages: list[bytes]) -> None:
    made = list(packed(session, first, given_messages))
    assert [message for packet in made for message in packet.messages] == given_messages
    expected = first
    for packet in made:
        assert (packet.session, packet.sequence) == (session, expected)
        assert len(encode_packet(packet)) <= PACKET_BYTES or len(packet.messages) == 1
        expected = packet.next_sequence


@pytest.mark.parametrize(
    "packet",
    [
        Packet("", 1, (b"a",)), Packet("x" * 11, 1, (b"a",)), Packet("é", 1, (b"a",)), Packet("a b", 1, (b"a",)),
        Packet("a", 0, (b"a",)), Packet("a", 1), Packet("a", 1, (bytes(70_000),)),
    ],
)  # fmt: skip
def test_what_has_no_form_is_not_encoded(packet: Packet) -> None:
    with pytest.raises(ValueError, match="valid"):
        encode_packet(packet)


@given(sessions, numbers, st.integers(1, 0xFFFF))
def test_a_request_comes_back_as_it_was(session: str, first: int, count: int) -> None:
    data = encode_request(Request(session, first, count))
    assert len(data) == HEADER.size
    assert decode_request(data) == Request(session, first, count)


@given(
    sessions, numbers, st.sampled_from(Reason), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_a_refusal_comes_back_as_it_was(
    session: str, first: int, reason: Reason, wait: int, available: int, following: int
) -> None:
    refusal = Refusal(session, first, reason, wait, available, following)
    data = encode_refusal(refusal)
    assert is_refusal(data)
    assert decode_refusal(data) == refusal
    with pytest.raises(PacketInvalid):
        decode_packet(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    for decode in (decode_request, decode_refusal):
        with contextlib.suppress(PacketInvalid):
            decode(data)


def test_a_refusal_without_a_known_reason_is_none() -> None:
    data = bytearray(encode_refusal(Refusal("S", 1, Reason.BUSY, 0, 0, 0)))
    data[HEADER.size] = 99
    with pytest.raises(PacketInvalid, match="99"):
        decode_refusal(bytes(data))


def test_a_frame_has_its_length() -> None:
    assert frame(ord("R"), b"ab") == b"\0\x03Rab"
    with pytest.raises(ValueError, match="valid"):
        frame(ord("R"), bytes(0xFFFF))
