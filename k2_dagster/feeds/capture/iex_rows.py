"""IEX TOPS 1.6 messages to rows: their byte layouts, and the columns that they become."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from k2_dagster.feeds.capture.block import (
    Refusal,
    Rows,
    in_file_order,
    keep_good,
    times,
    unchecked_batch,
    wire_batch,
)
from k2_dagster.feeds.capture.exact import scaled_integers
from k2_dagster.schemas.canonical import RULES
from k2_dagster.schemas.control import NO_SYMBOL
from k2_dagster.schemas.instruments import STREAM as INSTRUMENTS_STREAM
from k2_dagster.schemas.refused import VenueIdentity
from k2_dagster.schemas.topics import CONTROL_DATASET, INSTRUMENTS_DATASET

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
_DIRECTORY = np.dtype(
    [("type", "S1"), ("flags", "u1"), ("time", "<i8"), ("symbol", "S8"), ("round_lot", "<u4"), ("close", "<i8"),
     ("tier", "u1")]
)  # fmt: skip
LAYOUTS: Mapping[bytes, np.dtype[Any]] = {
    b"T": _TRADE, b"B": _TRADE, b"Q": _QUOTE, b"S": _SYSTEM, b"D": _DIRECTORY,
}  # fmt: skip
_SALE_FLAGS = ((0x80, "F"), (0x40, "T"), (0x20, "I"), (0x10, "8"), (0x08, "X"))
_QUOTE_FLAGS = ((0x80, "A"), (0x40, "P"))

_SYSTEM_STATES = {b"O": "started", b"C": "ended"}
_SYSTEM_EVENTS = {
    b"O": "start of messages", b"S": "start of system hours", b"R": "start of regular hours",
    b"M": "end of regular hours", b"E": "end of system hours", b"C": "end of messages",
}  # fmt: skip
# Of a directory message: what it says of the security beyond its name.
_DIRECTORY_FLAGS = ((0x80, "test security"), (0x40, "when issued"))
_FUND_FLAG = 0x20


class Message(NamedTuple):
    """One message (or heartbeat, with an empty body) of a channel. `order` counts the capture's messages; `finer`: the
    packet's time says more than the microsecond."""

    order: int
    packet: int
    receive_nanos: int
    finer: bool
    send_nanos: int
    channel: str
    session: str
    sequence: int
    body: bytes


def common_columns(exchange: str, messages: Sequence[Message]) -> dict[str, Any]:
    """What every row of a channel has."""
    receive = np.array([one.receive_nanos for one in messages], np.int64)
    return {
        "exchange": exchange,
        "stream": TRADES_STREAM,
        "session": [one.session for one in messages],
        "channel": [one.channel for one in messages],
        "sequence": [one.sequence for one in messages],
        **times("receive", receive, finer=np.array([one.finer for one in messages], np.bool_)),
    }


def orders_of(messages: Sequence[Message]) -> NDArray[np.int64]:
    """Order of each message."""
    return np.array([one.order for one in messages], np.int64)


def build_rows(exchange: str, kind: bytes, messages: Sequence[Message]) -> tuple[list[Rows], list[Refusal]]:
    """Rows of one message type, and the messages that do not become rows exactly."""
    dataset, columns_of = BUILDERS[kind]

    def build(start: int, stop: int) -> pa.RecordBatch:
        chosen = messages[start:stop]
        records = np.frombuffer(b"".join(one.body for one in chosen), LAYOUTS[kind])
        return wire_batch(dataset, len(chosen), {**common_columns(exchange, chosen), **columns_of(records)})

    parts, bad = keep_good(len(messages), build)
    refusals = [refusal(messages[at], reason, dataset) for at, reason in bad]
    return [Rows(batch, orders_of(messages[start:stop])) for start, stop, batch in parts], refusals


def refusal(message: Message, reason: str, dataset: str) -> Refusal:
    """A message that does not become a row, with what its packet tells of it."""
    identity = VenueIdentity(session=message.session, channel=message.channel, sequence=message.sequence)
    return Refusal(message.order, message.packet, message.body, reason, dataset, identity)


def arrived(exchange: str, messages: Sequence[Message], system: Rows | None) -> Rows:
    """Everything that the channels carried, for the feed handler to judge: a heartbeat announces the number that comes
    next and has none of its own, a system event (rows of `control` already) is what it is, and every other message only
    counts. What the packet says of time is when it was sent."""
    is_beat = np.array([not one.body for one in messages], np.bool_)
    common = common_columns(exchange, messages)
    numbers = np.array(common["sequence"], np.int64)
    seen = unchecked_batch(
        CONTROL_DATASET,
        len(messages),
        {
            **common,
            **times("exchange", np.array([one.send_nanos for one in messages], np.int64)),
            "symbol": NO_SYMBOL,
            "kind": [None if one.body else "heartbeat" for one in messages],
            "sequence": pa.array(numbers, mask=is_beat),
            "previous_sequence": pa.array(numbers - 1, mask=~is_beat),
        },
    )
    rows = Rows(seen, orders_of(messages))
    if system is None:
        return rows
    others = ~np.isin(rows.orders, system.orders)
    return in_file_order([Rows(seen.filter(pa.array(others)), rows.orders[others]), system])


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


def _directory(records: NDArray[Any]) -> dict[str, Any]:
    """Definitions: what the message says, and no more. It tells neither currency nor tick."""
    symbols, flags, lots = _symbols(records), records["flags"], records["round_lot"].astype(np.int64)
    words = [", ".join(word for bit, word in _DIRECTORY_FLAGS if value & bit) or None for value in flags.tolist()]
    return {
        "stream": INSTRUMENTS_STREAM,
        "kind": "definition",
        "symbol": symbols,
        **times("exchange", records["time"]),
        "canonical_symbol": [RULES["us_equities"].canonical(symbol) for symbol in symbols],
        "asset_class": "equities",
        "instrument_type": ["fund" if value & _FUND_FLAG else None for value in flags.tolist()],
        "lot_size": pa.array(np.asarray(scaled_integers(lots, 1, "round_lot")), mask=lots == 0),
        "venue_status": words,
    }


BUILDERS = {
    b"T": ("ticks", _trades),
    b"B": ("ticks", _breaks),
    b"Q": ("quotes", _quotes),
    b"S": (CONTROL_DATASET, _system),
    b"D": (INSTRUMENTS_DATASET, _directory),
}
