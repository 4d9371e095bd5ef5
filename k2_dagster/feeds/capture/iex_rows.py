"""IEX TOPS 1.6 messages to rows: their byte layouts, and the columns that they become."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from k2_dagster.feeds.capture.block import Refusal, keep_good, times, wire_batch
from k2_dagster.feeds.capture.exact import scaled_integers
from k2_dagster.schemas.control import NO_SYMBOL
from k2_dagster.schemas.topics import CONTROL_DATASET

TRADES_STREAM, QUOTES_STREAM = "tops", "tops_quote"
_PRICE_UNITS = 10_000

_TRADE = np.dtype(
    [("type", "S1"), ("flags", "u1"), ("time", "<i8"), ("symbol", "S8"), ("size", "<u4"), ("price", "<i8"),
     ("id", "<i8")]
)  # fmt: skip
_QUOTE = np.dtype(
    [("type", "S1"), ("flags", "u1"), ("time", "<i8"), ("symbol", "S8"), ("bid_size", "<u4"), ("bid", "<i8"),
     ("ask", "<i8"), ("ask_size", "<u4")]
)  # fmt: skip
_SYSTEM = np.dtype([("type", "S1"), ("event", "S1"), ("time", "<i8")])
LAYOUTS: Mapping[bytes, np.dtype[Any]] = {b"T": _TRADE, b"B": _TRADE, b"Q": _QUOTE, b"S": _SYSTEM}
_SALE_FLAGS = ((0x80, "F"), (0x40, "T"), (0x20, "I"), (0x10, "8"), (0x08, "X"))
_QUOTE_FLAGS = ((0x80, "A"), (0x40, "P"))

_SYSTEM_STATES = {b"O": "started", b"C": "ended"}
_SYSTEM_EVENTS = {
    b"O": "start of messages", b"S": "start of system hours", b"R": "start of regular hours",
    b"M": "end of regular hours", b"E": "end of system hours", b"C": "end of messages",
}  # fmt: skip


class Message(NamedTuple):
    """One message (or heartbeat, with an empty body) of a channel. `place` orders a block's messages."""

    place: int
    packet: int
    receive_nanos: int
    channel: str
    session: str
    sequence: int
    body: bytes


def common_columns(exchange: str, messages: Sequence[Message]) -> dict[str, Any]:
    """What every row of a channel has."""
    return {
        "exchange": exchange,
        "stream": TRADES_STREAM,
        "session": [one.session for one in messages],
        "channel": [one.channel for one in messages],
        "sequence": [one.sequence for one in messages],
        **times("receive", np.array([one.receive_nanos for one in messages], np.int64)),
    }


def build_rows(
    exchange: str, kind: bytes, messages: Sequence[Message]
) -> tuple[list[tuple[NDArray[np.int64], str, pa.RecordBatch]], list[Refusal]]:
    """Rows of one message type as (places, dataset, rows), and the messages that do not become rows exactly."""
    dataset, columns_of = _BUILDERS[kind]

    def build(start: int, stop: int) -> pa.RecordBatch:
        chosen = messages[start:stop]
        records = np.frombuffer(b"".join(one.body for one in chosen), LAYOUTS[kind])
        return wire_batch(dataset, len(chosen), {**common_columns(exchange, chosen), **columns_of(records)})

    parts, bad = keep_good(len(messages), build)
    refusals = [Refusal(messages[at].packet, messages[at].body, reason, dataset) for at, reason in bad]
    return [
        (np.array([one.place for one in messages[start:stop]], np.int64), dataset, batch)
        for start, stop, batch in parts
    ], refusals


def heartbeat_rows(exchange: str, beats: Sequence[Message]) -> pa.RecordBatch:
    """Control rows of heartbeats. A heartbeat announces the number that comes next; it has none of its own."""
    receive = np.array([one.receive_nanos for one in beats], np.int64)
    columns = {"kind": "heartbeat", "symbol": NO_SYMBOL, **times("exchange", receive), "sequence": None}
    return wire_batch(CONTROL_DATASET, len(beats), {**common_columns(exchange, beats), **columns})


def _symbols(records: NDArray[Any]) -> list[str]:
    return [symbol.decode("latin-1") for symbol in np.char.rstrip(records["symbol"], b" ").tolist()]


def _conditions(flags: NDArray[np.uint8], meaning: Sequence[tuple[int, str]]) -> list[list[str]]:
    lists = [[letter for bit, letter in meaning if value & bit] for value in range(256)]
    return [lists[value] for value in flags.tolist()]


def _trades(records: NDArray[Any]) -> dict[str, Any]:
    ids = [str(one) for one in records["id"].tolist()]
    return {
        "kind": "trade",
        "symbol": _symbols(records),
        **times("exchange", records["time"]),
        "trade_id": ids,
        "price": scaled_integers(records["price"], _PRICE_UNITS, "price"),
        "size": scaled_integers(records["size"].astype(np.int64), 1, "size"),
        "side": "unknown",
        "conditions": _conditions(records["flags"], _SALE_FLAGS),
    }


def _breaks(records: NDArray[Any]) -> dict[str, Any]:
    trades = _trades(records)
    return {**trades, "kind": "bust", "refers_to": [f"trade_id={one}" for one in trades["trade_id"]]}


def _quotes(records: NDArray[Any]) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "kind": "quote",
        "stream": QUOTES_STREAM,
        "symbol": _symbols(records),
        **times("exchange", records["time"]),
        "conditions": _conditions(records["flags"], _QUOTE_FLAGS),
    }
    for side in ("bid", "ask"):
        prices = scaled_integers(records[side], _PRICE_UNITS, side)
        # Price 0 is the venue's way to say that the side is empty.
        columns[f"{side}_price"] = pa.array(np.asarray(prices), mask=records[side] == 0)
        columns[f"{side}_size"] = scaled_integers(records[f"{side}_size"].astype(np.int64), 1, f"{side}_size")
    return columns


def _system(records: NDArray[Any]) -> dict[str, Any]:
    events = records["event"].tolist()
    return {
        "kind": "session",
        "symbol": NO_SYMBOL,
        **times("exchange", records["time"]),
        "state": [_SYSTEM_STATES.get(event) for event in events],
        "reason": [_SYSTEM_EVENTS.get(event, f"system event {event!r}") for event in events],
    }


_BUILDERS = {
    b"T": ("ticks", _trades),
    b"B": ("ticks", _breaks),
    b"Q": ("quotes", _quotes),
    b"S": (CONTROL_DATASET, _system),
}
