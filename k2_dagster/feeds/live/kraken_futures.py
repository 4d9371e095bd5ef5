"""Kraken Futures: a subscription per feed; a book with a hole in its `seq` is subscribed to anew."""

from collections.abc import Sequence
from typing import Any

from k2_dagster.feeds.capture.listings.kraken_futures import KRAKEN_FUTURES as LISTING
from k2_dagster.feeds.capture.recorder import received_line
from k2_dagster.feeds.live.books import NumberedBooks
from k2_dagster.feeds.live.venue import Message, Reply, Topic, Venue, by_channel, named_in

_CHANNELS = ("trade", "ticker_lite", "book")
# No topic: it has no products.
_HEARTBEAT: Message = {"event": "subscribe", "feed": "heartbeat"}
# Which come every few seconds.
SILENCE_SECONDS = 30.0
_SYMBOLS = 100


def subscribe(topics: Sequence[Topic]) -> list[Message]:
    """See `Venue`."""
    return [_HEARTBEAT, *(_request("subscribe", channel, symbols) for channel, symbols in by_channel(topics))]


def ask_again(symbol: str) -> list[Message]:
    """The book of one product from its beginning."""
    return [_request(event, "book", [symbol]) for event in ("unsubscribe", "subscribe")]


def reply(message: Any, topics: Sequence[Topic]) -> Reply | None:
    """See `Venue`. Products are told in capitals, one or several in an answer."""
    event, failure = message.get("event"), str(message.get("message", ""))
    if event in ("error", "alert"):
        return Reply(refused=named_in(failure, topics), failure=failure or str(event))
    feed, told = str(message.get("feed")), message.get("product_ids", ())
    found = tuple(topic for topic in topics if topic[0] == feed and topic[1] in told)
    if event == "subscribed":
        return Reply(acknowledged=found)
    return Reply(refused=found, failure=failure or "refused") if event == "subscribed_failed" else None


def _request(event: str, feed: str, symbols: Sequence[str]) -> Message:
    return {"event": event, "feed": feed, "product_ids": list(symbols)}


KRAKEN_FUTURES = Venue(
    exchange="kraken_futures", format="kraken_futures_ws", url="wss://futures.kraken.com/ws/v1", channels=_CHANNELS,
    most_symbols=_SYMBOLS, silence_seconds=SILENCE_SECONDS, line=received_line, subscribe=subscribe, reply=reply,
    books=NumberedBooks, listing=LISTING, ask_again=ask_again,
)  # fmt: skip
