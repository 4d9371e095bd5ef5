"""US consolidated trades and quotes: one zip per symbol and day, `{yyyymmdd}_{symbol}_{Trade,Quote}_Tick.csv` inside.

Times are milliseconds since midnight in New York, prices are times 10,000. The venue numbers nothing. Each quote names
one participant and one side; a side of price 0 and size 0 is unchanged, so rows carry that participant's last one and
say so in `conditions` (`carried=bid`, `carried=ask`).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.block import Block, Refusal, Rows, Skip, keep_good, timestamps, wire_batch
from k2_dagster.feeds.capture.csv_lines import fields_of
from k2_dagster.feeds.capture.exact import scaled_integers
from k2_dagster.feeds.capture.source import Source
from k2_dagster.schemas.refused import VenueIdentity

_NAME = re.compile(r"(\d{8})_([A-Za-z0-9.]{1,16})_(Trade|Quote)_Tick\.csv")
_NEW_YORK = ZoneInfo("America/New_York")
_PRICE_UNITS = 10_000
_TRADE_FIELDS = 6
_QUOTE_FIELDS = 8
_MILLISECONDS_PER_DAY = 86_400_000

Int64s = NDArray[np.int64]


def recognises(source: Source) -> bool:
    """Whether the zip's member is named as these are."""
    return _NAME.fullmatch(source.name) is not None


def read(source: Source, exchange: str) -> Iterator[Block]:
    """Blocks of one day's trades or quotes of one symbol. Raises CaptureInvalid when the name holds no date."""
    match = _NAME.fullmatch(source.name)
    if match is None or not (day := _day(match[1])):
        raise CaptureInvalid(
            f"{source.path}: the member is named {source.name}",
            advice="expected {yyyymmdd}_{symbol}_{Trade,Quote}_Tick.csv",
            path=str(source.path),
        )
    clock = _Clock(day)
    symbol = match[2].upper()
    is_trade = match[3] == "Trade"
    dataset, stream = ("ticks", "trade") if is_trade else ("quotes", "quote")
    parse = _parse_trades if is_trade else _parse_quotes
    columns: Callable[[Any], dict[str, Any]] = _trade_columns if is_trade else _QuoteState().columns
    common = {"exchange": exchange, "stream": stream, "kind": stream, "symbol": symbol}
    for first, lines in source.lines():
        kept = [(number, line) for number, line in enumerate(lines, first) if line]
        parts, bad = keep_good(len(kept), lambda start, stop: parse([line for _, line in kept[start:stop]], clock))  # noqa: B023
        batches = [wire_batch(dataset, stop - start, {**common, **columns(part)}) for start, stop, part in parts]
        orders = [number for start, stop, _ in parts for number, _ in kept[start:stop]]
        refusals = [
            Refusal(kept[index][0], *kept[index], reason, dataset, VenueIdentity(stream, kind=stream, symbol=symbol))
            for index, reason in bad
        ]
        skips = [Skip(number, "empty line") for number, line in enumerate(lines, first) if not line]
        rows = {dataset: Rows(pa.concat_batches(batches), np.array(orders, np.int64))} if batches else {}
        yield Block(first, len(lines), rows, refusals, skips)


class _Clock:
    """Milliseconds since local midnight of one day to UTC, across a change of summer time."""

    def __init__(self, day: date) -> None:
        midnight = datetime(day.year, day.month, day.day, tzinfo=_NEW_YORK)
        starts = [midnight + timedelta(hours=hour) for hour in range(24)]
        # Wall-clock hours, each with its own offset: what exchanges mean by time of day.
        self._hours = np.array([int(one.timestamp()) * 1_000_000 for one in starts], np.int64)

    def micros(self, milliseconds: Int64s) -> Int64s:
        if len(milliseconds) and not 0 <= milliseconds.min() <= milliseconds.max() < _MILLISECONDS_PER_DAY:
            raise CaptureInvalid(
                "time is not within the day", advice="valid: milliseconds since midnight", field="milliseconds"
            )
        micros: Int64s = self._hours[milliseconds // 3_600_000] + milliseconds % 3_600_000 * 1000
        return micros


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007  (a date has no zone)
    except ValueError:
        return None


def _integers(column: pa.Array) -> Int64s:
    values: Int64s = column.cast(pa.int64()).to_numpy()
    return values


@dataclass(frozen=True)
class _Trades:
    micros: Int64s
    price: pa.Array
    size: pa.Array
    conditions: list[list[str]]


@dataclass(frozen=True)
class _Quotes:
    """Scaled; 0 is unchanged."""

    micros: Int64s
    sides: tuple[pa.Array, pa.Array, pa.Array, pa.Array]
    participants: pa.Array
    conditions: list[list[str]]


def _conditions(participant: pa.Array, code: pa.Array, suspicious: pa.Array) -> list[list[str]]:
    """The condition code as the tape writes it, the participant, and the recorder's suspicion."""
    if not pc.all(pc.is_in(suspicious, pa.array(["0", "1"]))).as_py():
        raise CaptureInvalid("suspicious is neither 0 nor 1", advice="valid: 0, 1", field="suspicious")
    joined = pc.binary_join_element_wise(code, participant, suspicious, ",").dictionary_encode()
    lists = []
    for text in joined.dictionary.to_pylist():
        code_, participant_, suspicious_ = text.split(",")
        lists.append([code_, f"exchange={participant_}", *(["suspicious"] if suspicious_ == "1" else [])])
    return [lists[index] for index in joined.indices.to_pylist()]


def _parse_trades(lines: list[bytes], clock: _Clock) -> _Trades:
    millis, price, size, participant, code, suspicious = fields_of(lines, _TRADE_FIELDS)
    return _Trades(
        clock.micros(_integers(millis)),
        scaled_integers(_integers(price), _PRICE_UNITS, "price"),
        scaled_integers(_integers(size), 1, "size"),
        _conditions(participant, code, suspicious),
    )


def _parse_quotes(lines: list[bytes], clock: _Clock) -> _Quotes:
    millis, bid, bid_size, ask, ask_size, participant, code, suspicious = fields_of(lines, _QUOTE_FIELDS)
    return _Quotes(
        clock.micros(_integers(millis)),
        (
            scaled_integers(_integers(bid), _PRICE_UNITS, "bid"),
            scaled_integers(_integers(bid_size), 1, "bidsize"),
            scaled_integers(_integers(ask), _PRICE_UNITS, "ask"),
            scaled_integers(_integers(ask_size), 1, "asksize"),
        ),
        participant,
        _conditions(participant, code, suspicious),
    )


def _trade_columns(trades: _Trades) -> dict[str, Any]:
    return {
        "exchange_timestamp": timestamps(trades.micros),
        "price": trades.price,
        "size": trades.size,
        "side": "unknown",
        "conditions": trades.conditions,
    }


@dataclass
class _QuoteState:
    """The last quoted side of each participant, carried from block to block."""

    last: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def columns(self, quotes: _Quotes) -> dict[str, Any]:
        given = np.stack([np.asarray(side, np.int64) for side in quotes.sides])
        encoded = quotes.participants.dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        carried = np.zeros_like(given)
        for code, participant in enumerate(encoded.dictionary.to_pylist()):
            rows = np.flatnonzero(codes == code)
            before = self.last.get(participant, np.zeros(4, np.int64))
            # A price and its size change together.
            for price, size in ((0, 1), (2, 3)):
                changed = given[price, rows] != 0
                newest = np.maximum.accumulate(np.where(changed, np.arange(len(rows)), -1))
                for side in (price, size):
                    carried[side, rows] = np.where(newest < 0, before[side], given[side, rows][newest])
            self.last[participant] = carried[:, rows[-1]]
        unknown = carried[[0, 0, 2, 2]] == 0
        was_carried = (given[[0, 2]] == 0) & ~unknown[[0, 2]]
        bid, bid_size, ask, ask_size = (pa.array(carried[side], mask=unknown[side]) for side in range(4))
        return {
            "exchange_timestamp": timestamps(quotes.micros),
            "bid_price": bid,
            "bid_size": bid_size,
            "ask_price": ask,
            "ask_size": ask_size,
            "conditions": _marked(quotes.conditions, was_carried),
        }


def _marked(conditions: list[list[str]], carried: NDArray[np.bool_]) -> list[list[str]]:
    """The conditions, with the sides (bid, ask) that were not in the message but its participant's last ones."""
    marks: tuple[list[str], ...] = ([], ["carried=bid"], ["carried=ask"], ["carried=bid", "carried=ask"])
    places = (carried[0] + 2 * carried[1]).tolist()
    return [[*one, *marks[place]] if place else one for one, place in zip(conditions, places, strict=True)]
