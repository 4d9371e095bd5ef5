"""Kraken spot websocket lines (version 1): arrays `[channel id, payload, channel name, pair]` and event objects.

The venue numbers nothing; books carry a checksum instead. A trade message holds several trades: one row each.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa

from k2_dagster.feeds.capture.block import Block, times
from k2_dagster.feeds.capture.exact import scaled, seconds_to_nanos
from k2_dagster.feeds.capture.lines import (
    Collector,
    Event,
    Stream,
    level_lists,
    read_lines,
    receiver_time,
)
from k2_dagster.feeds.capture.listings.kraken import KRAKEN as LISTING
from k2_dagster.feeds.capture.recorder import no_symbol, recorded_line
from k2_dagster.feeds.capture.source import Source
from k2_dagster.schemas.control import NO_SYMBOL
from k2_dagster.schemas.topics import CONTROL_DATASET

_ADDRESS = re.compile(rb"wss://ws\.kraken\.com\b")
_AGGRESSOR = {"b": "buy", "s": "sell"}


def recognises(source: Source) -> bool:
    """Whether the content is a Kraken spot capture."""
    return bool(_ADDRESS.match(source.head))


def read(source: Source, exchange: str) -> Iterator[Block]:
    """Blocks of a Kraken spot capture."""
    return read_lines(source, exchange, take, LISTING)


def take(collector: Collector, number: int, line: bytes) -> None:
    """Hand one line of a capture to the collector."""
    received = recorded_line(collector, number, line)
    if received is None:
        return
    try:
        message = orjson.loads(received.payload)
        name = message["event"] if isinstance(message, dict) else message[-2].split("-")[0]
    except orjson.JSONDecodeError as error:
        collector.refuse(number, line, f"not JSON: {error}")
        return
    except (LookupError, TypeError, AttributeError):
        collector.refuse(number, line, "expected `[channel, payload.., name, pair]` or an object with `event`")
        return
    if not isinstance(name, str):
        collector.refuse(number, line, "expected `event` to be text")
    elif name == "heartbeat":
        collector.add(_HEARTBEAT, received.event(number, line, message))
    elif name in _CHANNELS:
        payloads = _payloads(name, message)
        if not payloads:
            collector.skip(number, f"channel {name}, empty")
        for payload in payloads:
            data = {"symbol": message[-1], "payload": payload}
            collector.add(_CHANNELS[name], received.event(number, line, data))
    else:
        collector.skip(number, f"event {name}" if isinstance(message, dict) else f"channel {name}")


def _payloads(name: str, message: list[Any]) -> Sequence[Any]:
    if name == "trade" and isinstance(message[1], list):
        return message[1]
    if name == "book":
        # Bids and asks of one change may come as two objects.
        merged: dict[str, Any] = {}
        for part in message[1:-2]:
            merged.update(part if isinstance(part, dict) else {"": part})
        return [merged]
    return [message[1]]


def _fields(events: Sequence[Event], place: int) -> list[Any]:
    return [event.data["payload"][place] for event in events]


def _venue_time(texts: Sequence[str], field: str) -> dict[str, pa.Array]:
    nanos, finer = seconds_to_nanos(texts, field)
    return times("exchange", nanos, finer=finer)


def _symbols(events: Sequence[Event]) -> pa.Array:
    return pa.array([event.data["symbol"] for event in events], pa.string())


def _trades(events: Sequence[Event]) -> Mapping[str, Any]:
    return {
        "symbol": _symbols(events),
        **_venue_time(_fields(events, 2), "time"),
        "price": scaled(_fields(events, 0), "price"),
        "size": scaled(_fields(events, 1), "volume"),
        "side": [_AGGRESSOR[side] for side in _fields(events, 3)],
        "conditions": [[one for one in event.data["payload"][4:6] if one] for event in events],
    }


def _spreads(events: Sequence[Event]) -> Mapping[str, Any]:
    return {
        "symbol": _symbols(events),
        **_venue_time(_fields(events, 2), "timestamp"),
        "bid_price": scaled(_fields(events, 0), "bid"),
        "ask_price": scaled(_fields(events, 1), "ask"),
        "bid_size": scaled(_fields(events, 3), "bidVolume"),
        "ask_size": scaled(_fields(events, 4), "askVolume"),
    }


def _books(events: Sequence[Event]) -> Mapping[str, Any]:
    payloads = [event.data["payload"] for event in events]
    snapshots = ["as" in one or "bs" in one for one in payloads]
    bids = [one.get("bs", one.get("b", [])) for one in payloads]
    asks = [one.get("as", one.get("a", [])) for one in payloads]
    newest = [max(level[2] for level in (*bid, *ask)) for bid, ask in zip(bids, asks, strict=True)]
    checksums = [int(one["c"]) if "c" in one else None for one in payloads]
    return {
        "symbol": _symbols(events),
        **_venue_time(newest, "timestamp"),
        "action": ["snapshot" if one else "delta" for one in snapshots],
        "bids": level_lists([[level[:2] for level in side] for side in bids], "bids"),
        "asks": level_lists([[level[:2] for level in side] for side in asks], "asks"),
        "checksum": checksums,
    }


def _heartbeats(events: Sequence[Event]) -> Mapping[str, Any]:
    return {"symbol": NO_SYMBOL, **receiver_time(events)}


_HEARTBEAT = Stream("heartbeat", CONTROL_DATASET, "heartbeat", _heartbeats, no_symbol)
_CHANNELS = {
    "trade": Stream("trade", "ticks", "trade", _trades),
    "spread": Stream("spread", "quotes", "quote", _spreads),
    "book": Stream("book", "book", "book", _books),
}
