"""A venue's list of what it trades: its answer as definitions, item by item. Pure.

An item that cannot be read exactly is refused, not the list; a list that is no list at all is refused whole.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.block import DAMAGE, explain, keep_good
from k2_dagster.schemas.arrow import TIMESTAMP, wire_type
from k2_dagster.schemas.common import EARLIEST_MICROS, LATEST_MICROS, MICROS_PER_SECOND
from k2_dagster.schemas.declaration import MAX_WIRE_LONG, PRICE_SCALE, Field, FieldType
from k2_dagster.schemas.instruments import INSTRUMENTS
from k2_dagster.schemas.refused import valid_name

# Wire form of one definition: its own fields and `symbol`. What is not there is null.
Definition = Mapping[str, Any]
_DECODE = json.JSONDecoder(parse_float=str).decode
MICROS_PER_MILLISECOND = 1_000
# Of an answer that was refused, what its error shows.
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class ListingSource:
    """How a venue tells its list: at `url`; where the list is in the answer, and the venue's time if it tells one (Unix
    microseconds); whose an item is; and what it says. `read` gives None for an item that is not on this feed, and
    raises one of `DAMAGE`."""

    url: str
    items: Callable[[Any], Any]
    read: Callable[[Any], Definition | None]
    symbol_of: Callable[[Any], Any] = lambda item: item["symbol"]
    told_micros: Callable[[Any], int | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class BadItem:
    """An item that does not become a definition; `symbol` where it tells one."""

    symbol: str | None
    raw: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """One answer: definitions by symbol, what was refused, how many items are not on this feed."""

    told_micros: int | None
    definitions: Mapping[str, Definition]
    refused: Sequence[BadItem]
    others: int


def read_listing(source: ListingSource, body: bytes) -> Listing:
    """Raises CaptureInvalid when the answer is no list of the documented form, or has nothing in it."""
    try:
        answer = _DECODE(body.decode())
        items, micros = source.items(answer), source.told_micros(answer)
    except (*DAMAGE, RecursionError) as error:
        raise _no_listing(explain(error), body) from error
    if not isinstance(items, list) or not items:
        raise _no_listing("the list is empty" if items == [] else "there is no list", body)
    found = [_read(source, item) for item in items]
    told = [(item, one) for item, one in zip(items, found, strict=True) if isinstance(one, Mapping)]
    definitions, bad = _fitting(source, told)
    refused = [*(one for one in found if isinstance(one, BadItem)), *bad]
    if not definitions:
        raise _no_listing(f"none of its {len(items)} items could be read; the first: {_first(refused)}", body)
    return Listing(micros, definitions, refused, found.count(None))


def _first(refused: Sequence[BadItem]) -> str:
    return refused[0].reason if refused else "not on this feed"


def _read(source: ListingSource, item: Any) -> Definition | BadItem | None:
    try:
        found = source.read(item)
        if found is not None and valid_name(found["symbol"]) is None:
            raise CaptureInvalid(f"symbol was {found['symbol']!r}", advice="a name", field="symbol")
    except DAMAGE as error:
        return _bad(source, item, explain(error))
    return found


def _fitting(
    source: ListingSource, told: Sequence[tuple[Any, Definition]]
) -> tuple[dict[str, Definition], list[BadItem]]:
    """The definitions whose values fit their columns; one that does not costs itself."""

    def build(start: int, stop: int) -> list[Definition]:
        part = [one for _, one in told[start:stop]]
        own_columns(part)
        return part

    parts, bad = keep_good(len(told), build)
    definitions = {one["symbol"]: one for _, _, part in parts for one in part}
    return definitions, [_bad(source, told[place][0], reason) for place, reason in bad]


def own_columns(definitions: Sequence[Definition]) -> dict[str, pa.Array]:
    """The dataset's own fields as columns. Raises one of `DAMAGE` when a value has not its column's type."""
    return {one.name: _column(one, [each.get(one.name) for each in definitions]) for one in INSTRUMENTS.own_fields}


def _column(field: Field, values: Sequence[Any]) -> pa.Array:
    if field.type is FieldType.TIMESTAMP:
        return pa.array(values, pa.int64()).view(TIMESTAMP)
    return pa.array(values, wire_type(field.type))


def _bad(source: ListingSource, item: Any, reason: str) -> BadItem:
    return BadItem(_symbol(source, item), json.dumps(item).encode(), reason)


def _symbol(source: ListingSource, item: Any) -> str | None:
    try:
        return valid_name(source.symbol_of(item))
    except DAMAGE:
        return None


def _no_listing(reason: str, body: bytes) -> CaptureInvalid:
    start = body[:_SHOWN_CHARACTERS].decode(errors="replace")
    return CaptureInvalid(
        f"no list of instruments: {reason}; it begins {start!r}", advice="the venue's documented form"
    )


def exact(value: Any, field: str) -> int | None:
    """A number (its text, or an integer) times 10^8. None for null, and for 0, which is how venues say "no step".
    Raises CaptureInvalid for what does not fit exactly."""
    if value is None:
        return None
    try:
        number = Decimal(str(value)).scaleb(PRICE_SCALE)
        whole = int(number)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise CaptureInvalid(f"{field} was {value!r}", advice="valid: a decimal number", field=field) from error
    if whole != number or not 0 <= whole <= MAX_WIRE_LONG:
        raise CaptureInvalid(f"{field} was {value!r}", advice="valid: at most 8 decimals", field=field)
    return whole or None


def step(decimals: Any, field: str) -> int | None:
    """A step given as how many decimals there are: 2 is 0.01, -3 is 1000."""
    return None if decimals is None else exact(Decimal(1).scaleb(-int(decimals)), field)


def from_milliseconds(value: Any) -> int | None:
    """Unix microseconds of Unix milliseconds. None where that is beyond all times of a message: 2100 is how venues say
    "never"."""
    return None if value is None else _within(int(value) * MICROS_PER_MILLISECOND)


def from_iso(value: Any) -> int | None:
    """Unix microseconds of a time in ISO 8601, UTC without an offset; None for null, and as `from_milliseconds`."""
    if value is None:
        return None
    given = datetime.fromisoformat(value)
    aware = given if given.tzinfo is not None else given.replace(tzinfo=UTC)
    return _within(int(aware.timestamp()) * MICROS_PER_SECOND + aware.microsecond)


def _within(micros: int) -> int | None:
    return micros if EARLIEST_MICROS <= micros <= LATEST_MICROS else None


def text(value: Any, field: str) -> str:
    """Raises CaptureInvalid for anything but text."""
    if not isinstance(value, str):
        raise CaptureInvalid(f"{field} was {value!r}", advice="valid: text", field=field)
    return value
