"""What a live venue is to the feed: how it is asked, what its answers mean, when silence is too long."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from k2_dagster.feeds.capture.listings.listing import ListingSource
from k2_dagster.feeds.live.books import Books

# A channel of the venue and one symbol on it, both as the venue writes them.
Topic = tuple[str, str]
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the venue said to a request. A failure that names no topics concerns all that are not acknowledged yet."""

    acknowledged: tuple[Topic, ...] = ()
    refused: tuple[Topic, ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class Venue:
    """One venue's protocol: pure decisions, no connection.

    `format` is the capture format that its frames are in, `line` makes a line of that format of a frame and when it
    came (Unix nanoseconds). `subscribe` makes the messages that ask for topics, the first of a connection. `reply`
    reads one message that is no market event, given the topics in the order in which they were asked for; None when it
    answers nothing. `books` judges book messages of one connection. A new snapshot of a symbol is asked for by
    `ask_again` on the connection, or where that is None at `snapshot_url` with the query of `snapshot_query`. `listing`
    tells what the venue trades.

    After `silence_seconds` without any frame `probe` is sent if there is one; as long again without any, and the
    connection is given up.
    """

    exchange: str
    format: str
    url: str
    channels: tuple[str, ...]
    most_symbols: int
    silence_seconds: float
    line: Callable[[int, bytes], bytes]
    subscribe: Callable[[Sequence[Topic]], list[Message]]
    reply: Callable[[Any, Sequence[Topic]], Reply | None]
    books: Callable[[], Books]
    listing: ListingSource
    ask_again: Callable[[str], list[Message]] | None = None
    snapshot_url: str = ""
    snapshot_query: Callable[[str], Mapping[str, str]] | None = None
    probe: Message | None = None

    def topics(self, symbols: Sequence[str]) -> list[Topic]:
        """Everything that is subscribed to for these symbols."""
        return [(channel, symbol) for channel in self.channels for symbol in symbols]


def by_channel(topics: Sequence[Topic]) -> Iterator[tuple[str, list[str]]]:
    """Channels with their symbols, in order."""
    for channel in dict.fromkeys(channel for channel, _ in topics):
        yield channel, [symbol for one, symbol in topics if one == channel]


def named_in(text: str, topics: Sequence[Topic]) -> tuple[Topic, ...]:
    """The topics whose symbol a text of the venue names."""
    return tuple(topic for topic in topics if topic[1] in text)
