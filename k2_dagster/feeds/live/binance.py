"""Binance spot, USD-M and COIN-M futures: one combined stream; book snapshots come from the REST interface."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from k2_dagster.feeds.capture.listings import binance as listings
from k2_dagster.feeds.capture.listings.listing import ListingSource
from k2_dagster.feeds.live.books import Books, ChainedBooks
from k2_dagster.feeds.live.venue import Message, Reply, Topic, Venue

# Updates are merged over this time; the finest that all three markets offer.
_CHANNELS = ("trade", "bookTicker", "depth@100ms")
# In one request. Venues take five messages a second.
TOPICS_PER_REQUEST = 300
# Levels a side: a request for more costs more of the rate limit, and the rest of the book comes with its changes.
SNAPSHOT_LEVELS = 1_000
# A connection takes 1,024 streams, of COIN-M 200.
_SPOT_SYMBOLS, _COINM_SYMBOLS = 340, 66
# A pair that nobody trades may be silent for long; the probe tells whether the connection is.
SILENCE_SECONDS = 30.0
# Answered with a list; its number is above those of the subscriptions.
_PROBE_ID = 1_000_000


def line(nanos: int, frame: bytes) -> bytes:
    """A frame as a line of the capture format."""
    return b"%d %s" % (nanos, frame)


def subscribe(topics: Sequence[Topic]) -> list[Message]:
    """See `Venue`; requests are numbered from 1."""
    return [
        {"method": "SUBSCRIBE", "params": [f"{symbol.lower()}@{channel}" for channel, symbol in part], "id": number}
        for number, part in enumerate(_parts(topics), 1)
    ]


def reply(message: Any, topics: Sequence[Topic]) -> Reply | None:
    """See `Venue`. The answer has the number of its request."""
    number = message.get("id")
    parts = _parts(topics)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number <= len(parts):
        return None
    part = tuple(parts[number - 1])
    if "result" in message:
        return Reply(acknowledged=part) if message["result"] is None else None
    error = message.get("error", message)
    return Reply(refused=part, failure=str(error["msg"])) if "msg" in error else None


def _parts(topics: Sequence[Topic]) -> list[Sequence[Topic]]:
    return [topics[start : start + TOPICS_PER_REQUEST] for start in range(0, len(topics), TOPICS_PER_REQUEST)]


def _query(symbol: str) -> Mapping[str, str]:
    return {"symbol": symbol, "limit": str(SNAPSHOT_LEVELS)}


def _spot_previous(data: Any) -> int:
    return int(data["U"]) - 1


def _future_previous(data: Any) -> int:
    return int(data["pu"])


def _venue(
    name: str,
    url: str,
    snapshot_url: str,
    listing: ListingSource,
    most_symbols: int,
    previous_of: Callable[[Any], int],
) -> Venue:
    books: Callable[[], Books] = partial(ChainedBooks, previous_of)
    return Venue(
        exchange=name, format=f"{name}_ws", url=url, channels=_CHANNELS, most_symbols=most_symbols,
        silence_seconds=SILENCE_SECONDS, line=line, subscribe=subscribe, reply=reply, books=books, listing=listing,
        snapshot_url=snapshot_url, snapshot_query=_query, probe={"method": "LIST_SUBSCRIPTIONS", "id": _PROBE_ID},
    )  # fmt: skip


SPOT = _venue(
    "binance", "wss://stream.binance.com:9443/stream", "https://api.binance.com/api/v3/depth",
    listings.SPOT, _SPOT_SYMBOLS, _spot_previous,
)  # fmt: skip
# Its streams are divided over three paths, documented so since March 2026: of ours, bookTicker and depth are public
# ones by its documentation. `trade` is in no list of it; other clients ask for it on this path, and so does K2. A path
# that has not what is asked for acknowledges it and says nothing: the report then names the silent stream.
USDM = _venue(
    "binance_usdm", "wss://fstream.binance.com/public/stream", "https://fapi.binance.com/fapi/v1/depth",
    listings.USDM, _SPOT_SYMBOLS, _future_previous,
)  # fmt: skip
COINM = _venue(
    "binance_coinm", "wss://dstream.binance.com/stream", "https://dapi.binance.com/dapi/v1/depth",
    listings.COINM, _COINM_SYMBOLS, _future_previous,
)  # fmt: skip
