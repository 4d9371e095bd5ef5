"""Binance websocket lines, spot and the two kinds of futures: `<receive nanoseconds> <json>`.

Trades `t` are dense per symbol and never restart, so rows carry no session. Spot depth is a range (U..u), futures depth
is linked (pu). COIN-M sizes are contracts, USD-M and spot sizes are of the base. bookTicker and depth snapshots carry a
venue time in futures only.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from k2_dagster.feeds.capture.block import Block
from k2_dagster.feeds.capture.lines import (
    Build,
    Collector,
    Event,
    Numbers,
    Stream,
    integers,
    milliseconds,
    numbers,
    read_lines,
    receiver_time,
    sides,
    texts,
)
from k2_dagster.feeds.capture.listings import binance as listings
from k2_dagster.feeds.capture.listings.listing import ListingSource
from k2_dagster.feeds.capture.recorder import other_line
from k2_dagster.feeds.capture.source import Source

_LINE = re.compile(rb"(\d{19}) (?=\{)")
_SYMBOL = re.compile(rb'"s":"([^"]{1,64})"')
_AGGRESSOR = {True: "sell", False: "buy"}
_REPLY_KEYS = ("result", "error", "code")


def is_spot(source: Source) -> bool:
    """Whether the content is a Binance spot capture."""
    return _is_binance(source) and not _is_coin_margined(source) and not _is_future(source)


def is_usdm(source: Source) -> bool:
    """Whether the content is a Binance USD-M futures capture."""
    return _is_binance(source) and not _is_coin_margined(source) and _is_future(source)


def is_coinm(source: Source) -> bool:
    """Whether the content is a Binance COIN-M futures capture."""
    return _is_binance(source) and _is_coin_margined(source)


def read_spot(source: Source, exchange: str) -> Iterator[Block]:
    """Blocks of a spot capture."""
    return _read(source, exchange, SPOT, listings.SPOT)


def read_usdm(source: Source, exchange: str) -> Iterator[Block]:
    """Blocks of a capture of USD-M futures."""
    return _read(source, exchange, FUTURES, listings.USDM)


def read_coinm(source: Source, exchange: str) -> Iterator[Block]:
    """Blocks of a capture of COIN-M futures: their messages have the fields of USD-M, and the pair's name."""
    return _read(source, exchange, FUTURES, listings.COINM)


def _is_binance(source: Source) -> bool:
    line = source.head.split(b"\n", 1)[0]
    return bool(_LINE.match(line)) and (b'"stream":' in line or b'"lastUpdateId":' in line)


def _is_coin_margined(source: Source) -> bool:
    # Of futures, only these name the pair (`ps`) beside the symbol.
    return b'"ps":"' in source.head


def _is_future(source: Source) -> bool:
    # Depth that points to its predecessor, trades with an order type, a bookTicker that says what it is: spot has none.
    return any(mark in source.head for mark in (b'"pu":', b'"X":"', b'"e":"bookTicker"'))


def _read(source: Source, exchange: str, streams: Mapping[str, Stream], listing: ListingSource) -> Iterator[Block]:
    symbols = set(_SYMBOL.findall(source.head))
    only = next(iter(symbols)).decode(errors="replace") if len(symbols) == 1 else None
    return read_lines(source, exchange, partial(_take, streams, only), listing)


def _take(streams: Mapping[str, Stream], symbol: str | None, collector: Collector, number: int, line: bytes) -> None:
    match = _LINE.match(line)
    if not match:
        other_line(collector, number, line, "expected `<nanoseconds> <json>`")
        return
    try:
        message = orjson.loads(line[match.end() :])
    except orjson.JSONDecodeError as error:
        collector.refuse(number, line, f"not JSON: {error}")
        return
    if "id" in message and not message.keys().isdisjoint(_REPLY_KEYS):
        collector.skip(number, "reply to a request")
        return
    name, data = _named(message, symbol)
    if name is not None and name in streams:
        collector.add(streams[name], Event(number, line, int(match[1]), data))
    elif name is None:
        collector.refuse(number, line, "expected `stream` and `data`, or a depth snapshot with `lastUpdateId`")
    else:
        collector.skip(number, f"stream {name}")


def _named(message: dict[str, Any], symbol: str | None) -> tuple[str | None, Any]:
    if "lastUpdateId" in message:
        # A snapshot is an answer of the REST interface. Only COIN-M repeats the symbol that was asked for.
        return "depth_snapshot", message if "symbol" in message else {**message, "symbol": symbol}
    name = message.get("stream")
    parts = name.split("@") if isinstance(name, str) else []
    return (parts[1], message.get("data")) if len(parts) >= 2 else (None, None)


def _trades(events: Sequence[Event]) -> dict[str, Any]:
    numbers_ = integers(events, "t")
    return {
        "symbol": texts(events, "s"),
        **milliseconds([event.data["T"] for event in events]),
        "sequence": numbers_,
        "trade_id": numbers_.cast(pa.string()),
        "price": numbers(events, "p"),
        "size": numbers(events, "q"),
        "side": [_AGGRESSOR[event.data["m"]] for event in events],
    }


def _future_trades(events: Sequence[Event]) -> dict[str, Any]:
    return {**_trades(events), "conditions": [[event.data["X"]] for event in events]}


def _best(events: Sequence[Event]) -> dict[str, Any]:
    return {
        "symbol": texts(events, "s"),
        "sequence": integers(events, "u"),
        "bid_price": numbers(events, "b"),
        "bid_size": numbers(events, "B"),
        "ask_price": numbers(events, "a"),
        "ask_size": numbers(events, "A"),
    }


def _spot_best(events: Sequence[Event]) -> dict[str, Any]:
    return {**_best(events), **receiver_time(events)}


def _future_best(events: Sequence[Event]) -> dict[str, Any]:
    return {**_best(events), **milliseconds([event.data["T"] for event in events])}


def _deltas(events: Sequence[Event]) -> dict[str, Any]:
    return {
        "symbol": texts(events, "s"),
        "action": "delta",
        "sequence": integers(events, "u"),
        "bids": sides(events, "b"),
        "asks": sides(events, "a"),
    }


def _spot_deltas(events: Sequence[Event]) -> dict[str, Any]:
    before_first = pc.subtract_checked(integers(events, "U"), pa.scalar(1, pa.int64()))
    times = milliseconds([event.data["E"] for event in events])
    return {**_deltas(events), **times, "previous_sequence": before_first}


def _future_deltas(events: Sequence[Event]) -> dict[str, Any]:
    times = milliseconds([event.data["T"] for event in events])
    return {**_deltas(events), **times, "previous_sequence": integers(events, "pu")}


def _snapshots(events: Sequence[Event]) -> dict[str, Any]:
    return {
        "symbol": texts(events, "symbol") if all(event.data["symbol"] for event in events) else _no_symbol(),
        "action": "snapshot",
        "sequence": integers(events, "lastUpdateId"),
        "bids": sides(events, "bids"),
        "asks": sides(events, "asks"),
    }


def _no_symbol() -> pa.Array:
    raise ValueError("the snapshot names no symbol, and the capture does not have just one")


def _spot_snapshots(events: Sequence[Event]) -> dict[str, Any]:
    return {**_snapshots(events), **receiver_time(events)}


def _future_snapshots(events: Sequence[Event]) -> dict[str, Any]:
    return {**_snapshots(events), **milliseconds([event.data["T"] for event in events])}


def _streams(trades: Build, best: Build, deltas: Build, snapshots: Build, depth_numbers: Numbers) -> dict[str, Stream]:
    def symbol_of(data: Any) -> Any:
        return data["s"]

    found = (
        Stream("trade", "ticks", "trade", trades, symbol_of, lambda data: (data["t"], None)),
        Stream("bookTicker", "quotes", "quote", best, symbol_of, lambda data: (data["u"], None)),
        Stream("depth", "book", "book", deltas, symbol_of, depth_numbers),
        Stream("depth_snapshot", "book", "book", snapshots, numbers_of=lambda data: (data["lastUpdateId"], None)),
    )
    return {stream.name: stream for stream in found}


SPOT = _streams(_trades, _spot_best, _spot_deltas, _spot_snapshots, lambda data: (data["u"], data["U"] - 1))
FUTURES = _streams(
    _future_trades, _future_best, _future_deltas, _future_snapshots, lambda data: (data["u"], data["pu"])
)
# For a feed: its snapshots name their symbol.
take_spot = partial(_take, SPOT, None)
take_futures = partial(_take, FUTURES, None)
