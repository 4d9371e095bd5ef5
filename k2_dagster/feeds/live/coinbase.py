"""Coinbase: matches, ticker and level 2 of its exchange feed, and the heartbeats that tell silence from a dead line."""

from collections.abc import Sequence
from typing import Any

from k2_dagster.feeds.capture.listings.coinbase import COINBASE as LISTING
from k2_dagster.feeds.capture.recorder import received_line
from k2_dagster.feeds.live.books import SnapshotBooks
from k2_dagster.feeds.live.venue import Message, Reply, Topic, Venue, by_channel, named_in

# Of the level 2 channels, this one needs no account. Its messages are those of `level2`.
_BOOK_CHANNEL = "level2_batch"
_CHANNELS = ("matches", "ticker", _BOOK_CHANNEL, "heartbeat")
# By which it is acknowledged.
_BOOK_NAMES = frozenset({"level2_batch", "level2_50", "level2"})
# A heartbeat comes every second.
SILENCE_SECONDS = 5.0
# Snapshots of this many full books are what a connection carries in its first seconds.
_SYMBOLS = 100


def subscribe(topics: Sequence[Topic]) -> list[Message]:
    """See `Venue`."""
    channels = [{"name": channel, "product_ids": symbols} for channel, symbols in by_channel(topics)]
    return [{"type": "subscribe", "channels": channels}]


def ask_again(symbol: str) -> list[Message]:
    """The book of one product from its beginning."""
    channels = [{"name": _BOOK_CHANNEL, "product_ids": [symbol]}]
    return [{"type": kind, "channels": channels} for kind in ("unsubscribe", "subscribe")]


def reply(message: Any, topics: Sequence[Topic]) -> Reply | None:
    """See `Venue`. The answer lists everything that is subscribed to by then."""
    kind = message.get("type")
    if kind == "subscriptions":
        told = {
            (_BOOK_CHANNEL if one["name"] in _BOOK_NAMES else one["name"], symbol)
            for one in message["channels"]
            for symbol in one["product_ids"]
        }
        return Reply(acknowledged=tuple(topic for topic in topics if topic in told))
    if kind == "error":
        failure = ": ".join(str(message[key]) for key in ("message", "reason") if message.get(key))
        return Reply(refused=named_in(failure, topics), failure=failure or "error")
    return None


COINBASE = Venue(
    exchange="coinbase", format="coinbase_ws", url="wss://ws-feed.exchange.coinbase.com", channels=_CHANNELS,
    most_symbols=_SYMBOLS, silence_seconds=SILENCE_SECONDS, line=received_line, subscribe=subscribe, reply=reply,
    books=SnapshotBooks, listing=LISTING, ask_again=ask_again,
)  # fmt: skip
