"""Kraken Futures websocket lines: book (dense `seq` of the changes), book_snapshot (`seq` of the last change in it,
monotone), trades (dense), ticker_lite (none).

Prices are JSON numbers; they are read as the text that they were written as, never as binary floats. A trade snapshot
becomes one row per trade, oldest first. Sizes are contracts.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from k2_dagster.feeds.capture.block import Block
from k2_dagster.feeds.capture.exact import scaled
from k2_dagster.feeds.capture.lines import (
    Collector,
    Event,
    Stream,
    integers,
    level_lists,
    milliseconds,
    read_lines,
    receiver_time,
    texts,
)
from k2_dagster.feeds.capture.listings.kraken_futures import KRAKEN_FUTURES as LISTING
from k2_dagster.feeds.capture.recorder import recorded_line
from k2_dagster.feeds.capture.source import Source

_ADDRESS = re.compile(rb"wss://futures\.kraken\.com\b")
_SIDES = ("buy", "sell")
_DECODE = json.JSONDecoder(parse_float=str).decode


def recognises(source: Source) -> bool:
    """Whether the content is a Kraken Futures capture."""
    return bool(_ADDRESS.match(source.head))


def read(source: Source, exchange: str) -> Iterator[Block]:
    """Blocks of a Kraken Futures capture."""
    return read_lines(source, exchange, take, LISTING)


def take(collector: Collector, number: int, line: bytes) -> None:
    """Hand one line of a capture to the collector."""
    received = recorded_line(collector, number, line)
    if received is None:
        return
    try:
        message = _DECODE(received.payload.decode())
    except (ValueError, RecursionError) as error:
        collector.refuse(number, line, f"not JSON: {error}")
        return
    if not isinstance(message, dict) or not ("event" in message or "feed" in message):
        collector.refuse(number, line, "expected an object with `feed` or `event`")
        return
    feed = message.get("feed")
    if "event" in message:
        collector.skip(number, f"event {message['event']}")
    elif feed == "trade_snapshot":
        trades = _oldest_first(message.get("trades"))
        if not trades:
            collector.skip(number, "feed trade_snapshot, empty")
        for trade in trades:
            collector.add(_TRADE, received.event(number, line, trade))
    elif isinstance(feed, str) and feed in _FEEDS:
        collector.add(_FEEDS[feed], received.event(number, line, message))
    else:
        collector.skip(number, f"feed {feed}")


def _oldest_first(trades: Any) -> list[Any]:
    if not isinstance(trades, list):
        return [trades]
    try:
        return sorted(trades, key=lambda trade: int(trade["seq"]))
    except (LookupError, TypeError, ValueError):
        return trades[::-1]


def _number(value: Any) -> str | None:
    """JSON number (an int, or a float's text) as text."""
    return None if value is None else str(value)


def _numbers(events: Sequence[Event], key: str) -> pa.Array:
    return scaled([_number(event.data[key]) for event in events], key)


def _common(events: Sequence[Event]) -> dict[str, Any]:
    return {"symbol": texts(events, "product_id")}


def _trades(events: Sequence[Event]) -> Mapping[str, Any]:
    return {
        **_common(events),
        **milliseconds([event.data["time"] for event in events]),
        "sequence": integers(events, "seq"),
        "trade_id": texts(events, "uid"),
        "price": _numbers(events, "price"),
        "size": _numbers(events, "qty"),
        "side": texts(events, "side"),
        "conditions": [[event.data["type"]] for event in events],
    }


def _changes(events: Sequence[Event]) -> Mapping[str, Any]:
    levels = [(_number(event.data["price"]), _number(event.data["qty"])) for event in events]
    places = [_SIDES.index(event.data["side"]) for event in events]
    bids = [[level] if place == 0 else [] for level, place in zip(levels, places, strict=True)]
    asks = [[level] if place == 1 else [] for level, place in zip(levels, places, strict=True)]
    return {
        **_common(events),
        **milliseconds([event.data["timestamp"] for event in events]),
        "action": "delta",
        "sequence": integers(events, "seq"),
        "bids": level_lists(bids, "book"),
        "asks": level_lists(asks, "book"),
    }


def _snapshots(events: Sequence[Event]) -> Mapping[str, Any]:
    return {
        **_common(events),
        **milliseconds([event.data["timestamp"] for event in events]),
        "action": "snapshot",
        "sequence": integers(events, "seq"),
        "bids": level_lists([_pairs(event.data["bids"]) for event in events], "bids"),
        "asks": level_lists([_pairs(event.data["asks"]) for event in events], "asks"),
    }


def _pairs(levels: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    return [(_number(level["price"]), _number(level["qty"])) for level in levels]


def _tickers(events: Sequence[Event]) -> Mapping[str, Any]:
    return {
        **_common(events),
        **receiver_time(events),
        "bid_price": _numbers(events, "bid"),
        "ask_price": _numbers(events, "ask"),
    }


def _symbol_of(data: Any) -> Any:
    return data["product_id"]


def _numbers_of(data: Any) -> tuple[Any, Any]:
    return data["seq"], None


_TRADE = Stream("trade", "ticks", "trade", _trades, _symbol_of, _numbers_of)
_CHANGE = Stream("book", "book", "book", _changes, _symbol_of, _numbers_of)
_FEEDS = {
    "trade": _TRADE,
    "book": _CHANGE,
    "book_snapshot": Stream("book_snapshot", "book", "book", _snapshots, _symbol_of, _numbers_of),
    "ticker_lite": Stream("ticker_lite", "quotes", "quote", _tickers, _symbol_of),
}
