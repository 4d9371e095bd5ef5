"""A simulated exchange as one numbered channel: its messages in the order of the exchange, and the packets of them."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.mold.messages import encode_messages
from k2_dagster.feeds.mold.packets import Packet, encode_packet, packed
from k2_dagster.feeds.simulator.feed import BOOK, Block, FeedParameters, Outgoing, SimulatedFeed
from k2_dagster.feeds.simulator.market import DEPTH, SNAPSHOT
from k2_dagster.feeds.simulator.snapshots import Books
from k2_dagster.feeds.simulator.venue import VenueStream, levels
from k2_dagster.schemas.common import MICROS_PER_SECOND
from k2_dagster.schemas.profiles import Domain, Profiles
from k2_dagster.schemas.topics import CONTROL_DATASET

Int64s = NDArray[np.int64]

# Messages of one such interval share packets: as an exchange does under load, and however busy the sender is.
PACKET_MICROS = 1_000


@dataclass(frozen=True)
class ReadyPacket:
    """A packet as bytes, the numbers in it, and when it is due (UTC microseconds)."""

    data: bytes
    first: int
    last: int
    due_micros: int


@dataclass(frozen=True)
class ChannelBlock:
    """Messages `first`, `first` + 1, ... and their packets in order; `books` are as they were before `first`."""

    first: int
    messages: list[bytes]
    packets: list[ReadyPacket]
    books: list[bytes]


class ExchangeChannel:
    """The same profiles and parameters give the same packets, byte for byte.

    Raises ConfigurationError as `SimulatedFeed`, and for an exchange whose streams do not share a channel.
    """

    def __init__(self, profiles: Profiles, parameters: FeedParameters) -> None:
        profile = profiles.exchange(parameters.exchange)
        others = [name for name, one in profile.streams.items() if one.domain is not Domain.CHANNEL]
        if others:
            raise ConfigurationError(
                f"exchange {parameters.exchange} has streams with other numbers than a channel's: {', '.join(others)}",
                advice='lines carry streams of the domain "channel", as those of sim_lines',
                exchange=parameters.exchange,
            )
        self._feed = SimulatedFeed(
            profiles, parameters, keep_books=any(one.dataset == BOOK for one in profile.streams.values())
        )
        self._exchange = parameters.exchange
        self._start_micros = parameters.start_micros
        # Ten digits, as long as a session's name may be
        self.session = f"{parameters.start_micros // MICROS_PER_SECOND:010d}"[-10:]
        self.datasets = tuple(name for name in profile.datasets if name != CONTROL_DATASET)

    def blocks(self) -> Iterator[ChannelBlock]:
        """The run, in order; to be taken once."""
        first = 1
        micros = self._start_micros
        for block in self._feed.blocks():
            books = [] if block.books is None else self._snapshots(block.books, micros)
            messages, due = _in_order(block)
            yield ChannelBlock(first, messages, list(self._packets(first, messages, due)), books)
            first += len(messages)
            micros = int(due[-1]) if len(due) else micros

    def _packets(self, first: int, messages: list[bytes], due: Int64s) -> Iterator[ReadyPacket]:
        edges = np.flatnonzero(np.diff(due // PACKET_MICROS, prepend=-1, append=-1)).tolist()
        for start, stop in itertools.pairwise(edges):
            for packet in packed(self.session, first + start, messages[start:stop]):
                last = packet.next_sequence - 1
                yield ReadyPacket(encode_packet(packet), packet.sequence, last, int(due[last - first]))

    def _snapshots(self, books: Books, micros: int) -> list[bytes]:
        """Each symbol's book as a message."""
        count = len(books.names)
        stream = VenueStream(
            self._exchange, BOOK, self._feed.streams[BOOK].stream, Domain.CHANNEL, books.names, self._feed.run
        )
        full = np.full(count, DEPTH, np.int64)
        sides = [levels(full, books.prices[:, side].ravel(), books.sizes[:, side].ravel()) for side in (0, 1)]
        columns = {"action": pa.repeat(_ACTION, count), "bids": sides[0], "asks": sides[1]}
        symbol, times = np.arange(count), np.full(count, micros)
        rows = stream.rows(symbol, symbol, np.ones_like(symbol), columns, times, times)
        messages: list[bytes] = encode_messages(BOOK, rows).to_pylist()
        return messages


_ACTION = ("delta", "snapshot")[SNAPSHOT]


def snapshot_packets(session: str, valid_at: int, books: list[bytes]) -> list[Packet]:
    """Books that hold everything up to number `valid_at`, in packets: each has the number behind it."""
    return [Packet(session, valid_at + 1, packet.messages) for packet in packed(session, 1, books)]


def _in_order(block: Block) -> tuple[list[bytes], Int64s]:
    """The messages of all datasets in the order in which the exchange made them, and when each is due."""
    parts: list[Outgoing] = [one for one in block.outgoing if one.rows.num_rows]
    if not parts:
        return [], np.zeros(0, np.int64)
    due = np.concatenate([one.send_micros for one in parts])
    order = np.argsort(due, kind="stable")
    encoded = pa.concat_arrays([encode_messages(one.dataset, one.rows) for one in parts])
    return encoded.take(pa.array(order)).to_pylist(), due[order]
