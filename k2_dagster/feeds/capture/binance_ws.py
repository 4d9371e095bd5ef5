"""Binance websocket lines, spot and COIN-M futures: `<receive nanoseconds> <json>`.

Trades `t` are dense per symbol and never restart, so rows carry no session. Spot depth is a range (U..u), futures depth
is linked (pu). COIN-M sizes are contracts. Spot bookTicker and spot depth snapshots carry no venue time.
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
    Collector,
    Event,
    Stream,
    integers,
    milliseconds,
    numbers,
    read_lines,
    receiver_time,
    sides,
    texts,
)
from k2_dagster.feeds.capture.source import Source

_LINE = re.compile(rb"(\d{19}) (?=\{)")
_SYMBOL = re.compile(rb'"s":"([^"]{1,64})"')
_AGGRESSOR = {True: "sell", False: "buy"}


def is_spot(source: Source) -> bool:
    """Whether the content is a Binance spot capture."""
    return _is_binance(source) and not _is_coin_margined(source)


def is_coinm(source: Source) -> bool:
    """Whether the content is a Binance COIN-M futures capture."""
    return _is_binance(source) and _is_coin_margined(source)


def read_spot(source: Source, exchange: str) -> Iterator[Block]:
    """Blocks of a spot capture."""
    return _read(source, exchange, SPOT)


def read_coinm(source: Source, exchange: str) -> Iterator[Block]:
    """Blocks of a COIN-M capture."""
    return _read(source, exchange, COINM)


def _is_binance(source: Source) -> bool:
    line = source.head.split(b"\n", 1)[0]
    return bool(_LINE.match(line)) and (b'"stream":' in line or b'"lastUpdateId":' in line)


def _is_coin_margined(source: Source) -> bool:
    # Only derivatives name the pair (`ps`) beside the symbol.
    return b'"ps":"' in source.head


def _read(source: Source, exchange: str, streams: Mapping[str, Stream]) -> Iterator[Block]:
    symbols = set(_SYMBOL.findall(source.head))
    only = next(iter(symbols)).decode(errors="replace") if len(symbols) == 1 else None
    return read_lines(source, exchange, partial(_take, streams, only))


def _take(streams: Mapping[str, Stream], symbol: str | None, collector: Collector, number: int, line: bytes) -> None:
    match = _LINE.match(line)
    if not match:
        if line.strip():
            collector.refuse(number, line, "expected `<nanoseconds> <json>`")
        else:
            collector.skip("empty line")
        return
    try:
        message = orjson.loads(line[match.end() :])
    except orjson.JSONDecodeError as error:
        collector.refuse(number, line, f"not JSON: {error}")
        return
    name, data = _named(message, symbol)
    if name is not None and name in streams:
        collector.add(streams[name], Event(number, line, int(match[1]), data))
    elif name is None:
        collector.refuse(number, line, "expected `stream` and `data`, or a depth snapshot with `lastUpdateId`")
    else:
        collector.skip(f"stream {name}")


def _named(message: dict[str, Any], symbol: str | None) -> tuple[str | None, Any]:
    if "lastUpdateId" in message:
        # The spot snapshot is an answer of the REST interface, and does not repeat the symbol that was asked for.
        return "depth_snapshot", message if "symbol" in message else {**message, "symbol": symbol}
    name = message.get("stream")
    parts = name.split("@") if isinstance(name, str) else []
    return (parts[1], message.get("data")) if len(parts) >= 2 else (None, None)


def _common(events: Sequence[Event], kind: str) -> dict[str, Any]:
    return {"kind": kind, "symbol": texts(events, "s")}


def _trades(events: Sequence[Event]) -> dict[str, Any]:
    return {
        **_common(events, "trade"),
        **milliseconds([event.data["T"] for event in events]),
        "sequence": integers(events, "t"),
        "price": numbers(events, "p"),
        "size": numbers(events, "q"),
        "side": [_AGGRESSOR[event.data["m"]] for event in events],
    }


def _coinm_trades(events: Sequence[Event]) -> dict[str, Any]:
    return {**_trades(events), "conditions": [[event.data["X"]] for event in events]}


def _best(events: Sequence[Event]) -> dict[str, Any]:
    return {
        **_common(events, "quote"),
        "sequence": integers(events, "u"),
        "bid_price": numbers(events, "b"),
        "bid_size": numbers(events, "B"),
        "ask_price": numbers(events, "a"),
        "ask_size": numbers(events, "A"),
    }


def _spot_best(events: Sequence[Event]) -> dict[str, Any]:
    return {**_best(events), **receiver_time(events)}


def _coinm_best(events: Sequence[Event]) -> dict[str, Any]:
    return {**_best(events), **milliseconds([event.data["T"] for event in events])}


def _deltas(events: Sequence[Event]) -> dict[str, Any]:
    return {
        **_common(events, "book"),
        "action": "delta",
        "sequence": integers(events, "u"),
        "bids": sides(events, "b"),
        "asks": sides(events, "a"),
    }


def _spot_deltas(events: Sequence[Event]) -> dict[str, Any]:
    before_first = pc.subtract_checked(integers(events, "U"), pa.scalar(1, pa.int64()))
    times = milliseconds([event.data["E"] for event in events])
    return {**_deltas(events), **times, "previous_sequence": before_first}


def _coinm_deltas(events: Sequence[Event]) -> dict[str, Any]:
    times = milliseconds([event.data["T"] for event in events])
    return {**_deltas(events), **times, "previous_sequence": integers(events, "pu")}


def _snapshots(events: Sequence[Event]) -> dict[str, Any]:
    return {
        "kind": "book",
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


def _coinm_snapshots(events: Sequence[Event]) -> dict[str, Any]:
    return {**_snapshots(events), **milliseconds([event.data["T"] for event in events])}


def _streams(trades: Any, best: Any, deltas: Any, snapshots: Any) -> dict[str, Stream]:
    def symbol_of(data: Any) -> Any:
        return data["s"]

    found = (
        Stream("trade", "ticks", trades, symbol_of),
        Stream("bookTicker", "quotes", best, symbol_of),
        Stream("depth", "book", deltas, symbol_of),
        Stream("depth_snapshot", "book", snapshots),
    )
    return {stream.name: stream for stream in found}


SPOT = _streams(_trades, _spot_best, _spot_deltas, _spot_snapshots)
COINM = _streams(_coinm_trades, _coinm_best, _coinm_deltas, _coinm_snapshots)
