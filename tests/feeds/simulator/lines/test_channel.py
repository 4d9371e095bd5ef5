from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.mold.messages import decode_messages
from k2_dagster.feeds.mold.packets import PACKET_BYTES, decode_packet
from k2_dagster.feeds.simulator.feed import FeedParameters, SimulatedFeed
from k2_dagster.feeds.simulator.lines.channel import ExchangeChannel, snapshot_packets
from k2_dagster.feeds.simulator.lines.line import Line, LineFaults
from tests.feeds.lines.exchange import profiles_of_lines
from tests.feeds.simulator.simulated import START_MICROS, profiles_with, rows_of

PROFILES = profiles_of_lines("x")
PARAMETERS = FeedParameters("x", 8, 1_000.0, 3, START_MICROS, 30.0)
BLOCKS = list(ExchangeChannel(PROFILES, PARAMETERS).blocks())
MESSAGES = [message for block in BLOCKS for message in block.messages]


def test_packets_hold_every_message_once_in_order_and_fit() -> None:
    expected = 1
    for ready in (packet for block in BLOCKS for packet in block.packets):
        packet = decode_packet(ready.data)
        assert (packet.session, packet.sequence, ready.first) == ("1780000000", expected, expected)
        assert list(packet.messages) == MESSAGES[expected - 1 : packet.next_sequence - 1]
        assert ready.last == packet.next_sequence - 1
        assert len(ready.data) <= PACKET_BYTES or len(packet.messages) == 1
        expected = packet.next_sequence
    assert expected == len(MESSAGES) + 1 == 30_001


def test_messages_are_those_of_the_simulated_feed_in_the_order_of_time() -> None:
    decoded = decode_messages(MESSAGES)
    feed = list(SimulatedFeed(PROFILES, PARAMETERS).blocks())
    times = np.zeros(len(MESSAGES), np.int64)
    for dataset, (places, rows) in decoded.rows.items():
        names = ("symbol", "exchange_timestamp", "price", "bid_price", "ask_size", "action")
        plain = [{name: row[name] for name in names if name in row} for row in rows_of(feed, dataset)]
        micros = rows.column("exchange_timestamp").cast("int64").to_pylist()
        found = [{**row, "exchange_timestamp": at} for row, at in zip(rows.to_pylist(), micros, strict=True)]
        assert [{name: row[name] for name in plain[0]} for row in found] == plain
        times[places] = micros
    assert (np.diff(times) >= 0).all()


def test_the_same_parameters_give_the_same_bytes() -> None:
    again = [packet for block in ExchangeChannel(PROFILES, PARAMETERS).blocks() for packet in block.packets]
    assert again == [packet for block in BLOCKS for packet in block.packets]


def test_the_books_are_what_the_changes_before_them_lead_to() -> None:
    before, block = BLOCKS[0], BLOCKS[1]
    books: dict[str, tuple[dict[Any, Any], dict[Any, Any]]] = {}
    rows = decode_messages(before.messages).rows["book"][1].to_pylist()
    for row in rows:
        book = books.setdefault(row["symbol"], ({}, {}))
        for side, changes in zip(book, (row["bids"], row["asks"]), strict=True):
            if row["action"] == "snapshot":
                side.clear()
            side.update({level["price"]: level["size"] for level in changes})
            for price in [price for price, size in side.items() if not size]:
                del side[price]
    packets = snapshot_packets("S", block.first - 1, block.books)
    assert {packet.sequence for packet in packets} == {block.first}
    snapshots = decode_messages([message for packet in packets for message in packet.messages]).rows["book"][1]
    assert snapshots.num_rows == PARAMETERS.symbols
    for row in snapshots.to_pylist():
        assert row["action"] == "snapshot"
        if row["symbol"] in books:
            levels = [{level["price"]: level["size"] for level in row[side]} for side in ("bids", "asks")]
            assert levels == list(books[row["symbol"]])


def test_streams_that_share_no_channel_have_no_lines() -> None:
    with pytest.raises(ConfigurationError, match="ticks_stream"):
        ExchangeChannel(profiles_with(ticks="dense", quotes="channel"), FeedParameters("sim", 2, 1.0, 1, START_MICROS))


@given(st.lists(st.integers(0, 50), max_size=6), st.integers(0, 1_000))
def test_what_happens_to_a_packet_does_not_depend_on_how_they_are_split(counts: list[int], seed: int) -> None:
    faults = LineFaults(0.2, 0.3, 0.01)
    whole = Line("A", seed, faults).fates(sum(counts))
    line = Line("A", seed, faults)
    parts = [line.fates(count) for count in counts]
    assert np.concatenate([whole.dropped[:0], *(one.dropped for one in parts)]).tolist() == whole.dropped.tolist()
    assert [delay for one in parts for delay in one.delay_micros.tolist()] == whole.delay_micros.tolist()
    assert not (whole.dropped & (whole.delay_micros > 0)).any()


def test_lines_lose_on_their_own_and_as_much_as_asked_for() -> None:
    fates = [Line(name, 1, LineFaults(0.05, 0.1, 0.01)).fates(100_000) for name in "AB"]
    for one in fates:
        assert 0.045 < one.dropped.mean() < 0.055
        assert 0.09 < (one.delay_micros > 0).mean() < 0.105
        assert one.delay_micros.max() <= 10_001
    assert 0.0018 < (fates[0].dropped & fates[1].dropped).mean() < 0.0032


def test_what_is_held_up_is_released_when_it_is_due() -> None:
    line = Line("A", 1, LineFaults())
    packets = BLOCKS[0].packets[:3]
    for packet, until in zip(packets, (30, 10, 20), strict=True):
        line.hold(packet, until)
    assert line.released(9) == []
    assert line.released(20) == [packets[1], packets[2]]
    assert line.released(None) == [packets[0]]


@pytest.mark.parametrize("name", ["drop", "delay"])
def test_a_share_that_is_none_is_told(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} was 1.5"):
        LineFaults(**{name: 1.5})
