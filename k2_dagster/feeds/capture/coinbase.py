"""Coinbase websocket lines: matches (dense by trade_id), ticker (monotone sequence) and level2 (no numbers).

`side` of a match is the maker's; the aggressor is the other one. The venue's own `sequence` counts every order event of
a product, so on the subscribed channels it only increases. Of a match it is kept as a condition (`sequence=`), because
it places the trade among the tickers of its product.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa

from k2_dagster.feeds.capture.block import Block
from k2_dagster.feeds.capture.lines import (
    Collector,
    Event,
    Stream,
    integers,
    level_lists,
    numbers,
    read_lines,
    receiver_time,
    sides,
    texts,
)
from k2_dagster.feeds.capture.listings.coinbase import COINBASE as LISTING
from k2_dagster.feeds.capture.recorder import recorded_line
from k2_dagster.feeds.capture.source import Source
from k2_dagster.schemas.arrow import TIMESTAMP

_ADDRESS = re.compile(rb"wss://\S*\.coinbase\.com\b")
_AGGRESSOR = {"sell": "buy", "buy": "sell"}
_SIDE_PLACE = {"buy": 0, "sell": 1}


def recognises(source: Source) -> bool:
    """Whether the content is a Coinbase capture."""
    return bool(_ADDRESS.match(source.head))


def read(source: Source, exchange: str) -> Iterator[Block]:
    """Blocks of a Coinbase capture."""
    return read_lines(source, exchange, take, LISTING)


def take(collector: Collector, number: int, line: bytes) -> None:
    """Hand one line of a capture to the collector."""
    received = recorded_line(collector, number, line)
    if received is None:
        return
    try:
        message = orjson.loads(received.payload)
        name = message["type"]
    except orjson.JSONDecodeError as error:
        collector.refuse(number, line, f"not JSON: {error}")
    except (LookupError, TypeError):
        collector.refuse(number, line, "expected an object with `type`")
    else:
        if isinstance(name, str) and name in _TYPES:
            collector.add(_TYPES[name], received.event(number, line, message))
        else:
            collector.skip(number, f"type {name}")


def _common(events: Sequence[Event]) -> dict[str, Any]:
    return {"symbol": texts(events, "product_id")}


def _venue_time(events: Sequence[Event]) -> dict[str, pa.Array]:
    return {"exchange_timestamp": texts(events, "time").cast(TIMESTAMP)}


def _matches(events: Sequence[Event]) -> Mapping[str, Any]:
    trade_ids = integers(events, "trade_id")
    places = pa.array([event.data.get("sequence") for event in events], pa.int64())
    return {
        **_common(events),
        **_venue_time(events),
        "sequence": trade_ids,
        "trade_id": trade_ids.cast(pa.string()),
        "conditions": [[] if one is None else [f"sequence={one}"] for one in places.to_pylist()],
        "price": numbers(events, "price"),
        "size": numbers(events, "size"),
        "side": [_AGGRESSOR[event.data["side"]] for event in events],
    }


def _tickers(events: Sequence[Event]) -> Mapping[str, Any]:
    return {
        **_common(events),
        **_venue_time(events),
        "sequence": integers(events, "sequence"),
        "bid_price": numbers(events, "best_bid"),
        "ask_price": numbers(events, "best_ask"),
    }


def _snapshots(events: Sequence[Event]) -> Mapping[str, Any]:
    return {
        **_common(events),
        **receiver_time(events),
        "action": "snapshot",
        "bids": sides(events, "bids"),
        "asks": sides(events, "asks"),
    }


def _updates(events: Sequence[Event]) -> Mapping[str, Any]:
    changed: tuple[list[Any], list[Any]] = ([], [])
    for event in events:
        row: tuple[list[Any], list[Any]] = ([], [])
        for side, price, size in event.data["changes"]:
            row[_SIDE_PLACE[side]].append((price, size))
        changed[0].append(row[0])
        changed[1].append(row[1])
    return {
        **_common(events),
        **_venue_time(events),
        "action": "delta",
        "bids": level_lists(changed[0], "changes"),
        "asks": level_lists(changed[1], "changes"),
    }


def _symbol_of(data: Any) -> Any:
    return data["product_id"]


# Also of the REST interface's trades, which have the same fields but for the product's name.
MATCH = Stream("match", "ticks", "trade", _matches, _symbol_of, lambda data: (data["trade_id"], None))
# Snapshots and updates are one stream of the venue; building them apart keeps both columnar.
_SNAPSHOT = Stream("level2", "book", "book", _snapshots, _symbol_of)
_UPDATE = Stream("level2", "book", "book", _updates, _symbol_of)
_TICKER = Stream("ticker", "quotes", "quote", _tickers, _symbol_of, lambda data: (data["sequence"], None))
_TYPES = {"match": MATCH, "last_match": MATCH, "ticker": _TICKER, "snapshot": _SNAPSHOT, "l2update": _UPDATE}
