"""Binance spot trades and depth changes as CSV, times in microseconds.

Of depth, each line is one level; consecutive lines that agree in everything else are one message, and one row.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.block import Block, Refusal, Rows, keep_good, levels, timestamps, wire_batch
from k2_dagster.feeds.capture.csv_lines import fields_of
from k2_dagster.feeds.capture.exact import scaled
from k2_dagster.feeds.capture.source import Source
from k2_dagster.schemas.refused import VenueIdentity, valid_name, valid_number

TRADE_HEADER = (
    b"TimestampOfReceive,Stream,EventType,EventTime,TransactionTime,Symbol,TradeId,Price,Quantity,"
    b"IsBuyerMarketMaker,MUnknownParameter"
)
DEPTH_HEADER = b"TimestampOfReceive,Stream,EventType,EventTime,Symbol,FirstUpdateId,FinalUpdateId,IsAsk,Price,Quantity"
_TRADE_FIELDS = 11
_DEPTH_FIELDS = 10
# What lines of one depth message share: everything before IsAsk.
_MESSAGE_FIELDS = 7


def is_trades(source: Source) -> bool:
    """Whether the content is a CSV of trades."""
    return _header(source) == TRADE_HEADER


def is_depth(source: Source) -> bool:
    """Whether the content is a CSV of depth changes."""
    return _header(source) == DEPTH_HEADER


def read_trades(source: Source, exchange: str) -> Iterator[Block]:
    """Blocks of a trade CSV."""
    for group in _groups(source, lambda lines: np.arange(len(lines))):
        yield group.block("ticks", {"exchange": exchange, "stream": "trade", "kind": "trade"}, _trades)


def read_depth(source: Source, exchange: str) -> Iterator[Block]:
    """Blocks of a depth CSV."""
    for group in _groups(source, _message_starts):
        yield group.block("book", {"exchange": exchange, "stream": "depth", "kind": "book"}, _deltas)


def _header(source: Source) -> bytes:
    return source.head.split(b"\n", 1)[0].rstrip(b"\r")


@dataclass(frozen=True)
class _Grouped:
    """Lines (with the number of the first) and where each message starts among them."""

    first: int
    lines: Sequence[bytes]
    starts: NDArray[np.int64]

    def block(
        self, dataset: str, common: dict[str, Any], columns: Callable[[Sequence[bytes], Any], dict[str, Any]]
    ) -> Block:
        edges = np.append(self.starts, len(self.lines))

        def build(start: int, stop: int) -> pa.RecordBatch:
            chosen = self.lines[edges[start] : edges[stop]]
            counts = np.diff(edges[start : stop + 1])
            return wire_batch(dataset, stop - start, {**common, **columns(chosen, counts)})

        parts, bad = keep_good(len(self.starts), build)
        refusals = [self._refusal(index, reason, dataset, common) for index, reason in bad]
        orders = [self.first + edges[start:stop] for start, stop, _ in parts]
        batches = [batch for _, _, batch in parts]
        rows = {dataset: Rows(pa.concat_batches(batches), np.concatenate(orders))} if parts else {}
        return Block(self.first, len(self.lines), rows, refusals)

    def _refusal(self, index: int, reason: str, dataset: str, common: dict[str, Any]) -> Refusal:
        start, stop = np.append(self.starts, len(self.lines))[index : index + 2].tolist()
        raw, number = b"\n".join(self.lines[start:stop]), self.first + start
        identity = _identity(self.lines[start], common["stream"], common["kind"])
        return Refusal(number, number, raw, f"{common['stream']}: {reason}", dataset, identity)


def _identity(line: bytes, stream: str, kind: str) -> VenueIdentity:
    """What a line that cannot be built still tells of itself."""
    fields = line.decode(errors="replace").split(",")
    header, whole = (TRADE_HEADER, _TRADE_FIELDS) if stream == "trade" else (DEPTH_HEADER, _DEPTH_FIELDS)
    if len(fields) != whole:
        return VenueIdentity(stream=stream, kind=kind)
    named = dict(zip(header.decode().split(","), fields, strict=True))
    last, first = named.get("TradeId", named.get("FinalUpdateId")), named.get("FirstUpdateId")
    return VenueIdentity(
        stream=stream,
        kind=kind,
        symbol=valid_name(named["Symbol"]),
        sequence=valid_number(_integer(last)),
        previous_sequence=None if first is None else valid_number(_integer(first, less=1), lowest=-1),
    )


def _integer(text: str | None, less: int = 0) -> int | None:
    return int(text) - less if text is not None and re.fullmatch(r"-?[0-9]{1,19}", text) else None


def _groups(source: Source, starts_of: Callable[[Sequence[bytes]], NDArray[np.int64]]) -> Iterator[_Grouped]:
    """Blocks of whole messages: the last of a block waits for the next, which may have more of its lines."""
    held: list[bytes] = []
    number = 2
    for first, found in source.lines():
        lines = held + (found[1:] if first == 1 else found)
        starts = starts_of(lines)
        end = int(starts[-1]) if len(starts) else 0
        yield _Grouped(number, lines[:end], starts[:-1])
        held, number = lines[end:], number + end
    if held:
        yield _Grouped(number, held, starts_of(held))


def _message_starts(lines: Sequence[bytes]) -> NDArray[np.int64]:
    keys = [line.split(b",", _MESSAGE_FIELDS)[:_MESSAGE_FIELDS] for line in lines]
    changed = [one != before for before, one in itertools.pairwise(keys)]
    return np.flatnonzero(np.array([True, *changed] if lines else [], np.bool_))


def _integers(column: pa.Array) -> pa.Int64Array:
    return column.cast(pa.int64())


def _receive(column: pa.Array) -> dict[str, pa.Array]:
    return {"receive_timestamp": timestamps(_integers(column).to_numpy())}


def _expect(column: pa.Array, allowed: Sequence[str], field: str) -> pa.Array:
    if not pc.all(pc.is_in(column, pa.array(allowed))).as_py():
        raise CaptureInvalid(f"{field} has another value", advice=f"valid: {', '.join(allowed)}", field=field)
    return column


def _trades(lines: Sequence[bytes], _: Any) -> dict[str, Any]:
    receive, _stream, event, _event_time, time, symbol, trade_id, price, size, maker, _unknown = fields_of(
        lines, _TRADE_FIELDS
    )
    _expect(event, ["trade"], "EventType")
    return {
        **_receive(receive),
        "exchange_timestamp": timestamps(_integers(time).to_numpy()),
        "symbol": symbol,
        "sequence": _integers(trade_id),
        "trade_id": trade_id,
        "price": scaled(price, "Price"),
        "size": scaled(size, "Quantity"),
        "side": pc.if_else(pc.equal(_expect(maker, ["0", "1"], "IsBuyerMarketMaker"), "1"), "sell", "buy"),
    }


def _deltas(lines: Sequence[bytes], counts: NDArray[np.int64]) -> dict[str, Any]:
    columns = fields_of(lines, _DEPTH_FIELDS)
    is_ask = np.asarray(pc.equal(_expect(columns[7], ["0", "1"], "IsAsk"), "1"))
    prices, sizes = scaled(columns[8], "Price"), scaled(columns[9], "Quantity")
    message = np.repeat(np.arange(len(counts)), counts)
    heads = pa.array(np.cumsum(counts) - counts)
    receive, _, event, time, symbol, first, last = (column.take(heads) for column in columns[:_MESSAGE_FIELDS])
    _expect(event, ["depthUpdate"], "EventType")

    def side(chosen: NDArray[np.bool_]) -> pa.Array:
        mask = pa.array(chosen)
        return levels(prices.filter(mask), sizes.filter(mask), np.bincount(message[chosen], minlength=len(counts)))

    return {
        "action": "delta",
        **_receive(receive),
        "exchange_timestamp": timestamps(_integers(time).to_numpy()),
        "symbol": symbol,
        "sequence": _integers(last),
        "previous_sequence": pc.subtract_checked(_integers(first), pa.scalar(1, pa.int64())),
        "bids": side(~is_ask),
        "asks": side(is_ask),
    }
