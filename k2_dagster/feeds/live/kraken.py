"""Kraken spot (version 1): a subscription per channel; a book that fails its checksum is subscribed to anew."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from k2_dagster.feeds.capture.listings.kraken import KRAKEN as LISTING
from k2_dagster.feeds.capture.recorder import received_line
from k2_dagster.feeds.live.books import ChecksummedBooks
from k2_dagster.feeds.live.venue import Message, Reply, Topic, Venue, by_channel, named_in

# Levels a side.
DEPTH = 100
_CHANNELS = ("trade", "spread", "book")
# It sends a heartbeat every second in which it has nothing else to say.
SILENCE_SECONDS = 5.0
_SYMBOLS = 100


def subscribe(topics: Sequence[Topic]) -> list[Message]:
    """See `Venue`."""
    return [_request("subscribe", channel, symbols) for channel, symbols in by_channel(topics)]


def ask_again(symbol: str) -> list[Message]:
    """The book of one pair from its beginning."""
    return [_request(event, "book", [symbol]) for event in ("unsubscribe", "subscribe")]


def reply(message: Any, topics: Sequence[Topic]) -> Reply | None:
    """See `Venue`. There is one answer for each pair and channel."""
    if not isinstance(message, dict):
        return None
    failure = str(message.get("errorMessage", ""))
    if message.get("event") == "error":
        return Reply(refused=named_in(failure, topics), failure=failure or "error")
    if message.get("event") != "subscriptionStatus":
        return None
    topic = (str(message.get("subscription", {}).get("name")), str(message.get("pair")))
    if message.get("status") == "subscribed":
        return Reply(acknowledged=(topic,))
    if message.get("status") == "error":
        # Subscribed twice is subscribed
        return Reply(acknowledged=(topic,)) if "already" in failure.lower() else Reply((), (topic,), failure)
    return None


def _request(event: str, channel: str, symbols: Sequence[str]) -> Message:
    depth = {"depth": DEPTH} if channel == "book" else {}
    return {"event": event, "pair": list(symbols), "subscription": {"name": channel, **depth}}


KRAKEN = Venue(
    exchange="kraken", format="kraken_ws", url="wss://ws.kraken.com", channels=_CHANNELS, most_symbols=_SYMBOLS,
    silence_seconds=SILENCE_SECONDS, line=received_line, subscribe=subscribe, reply=reply,
    books=partial(ChecksummedBooks, DEPTH), listing=LISTING, ask_again=ask_again, probe={"event": "ping"},
)  # fmt: skip
