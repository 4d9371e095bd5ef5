"""Searching the current definitions of instruments."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from k2_dagster.query.engine import QueryEngine
from k2_dagster.schemas.declaration import Dataset
from k2_dagster.schemas.instruments import INSTRUMENTS, KINDS

# Names that a text which matches nothing may have meant.
NEAR_NAMES = 3
# Between the parts of a name, in which venues differ and people do not care.
_MARKS = re.compile(r"[^A-Z0-9]+")
_WITHDRAWN = "withdrawn"
_COMMON = ("exchange", "symbol", "kind", "exchange_timestamp")


@dataclass(frozen=True, slots=True)
class Found:
    """The best matches, of how many; `known` are all current definitions of the exchange and class that were asked for.
    `near` are names that may have been meant, where there is no match."""

    rows: Sequence[Mapping[str, Any]]
    matches: int
    known: int
    near: Sequence[str] = ()


def columns_of(dataset: Dataset = INSTRUMENTS) -> tuple[str, ...]:
    """The columns of an answer's rows."""
    own = tuple(one.name for one in dataset.own_fields)
    return ("symbol", "exchange", *own, "said")


def find_symbols(
    engine: QueryEngine, text: str = "", *, exchange: str | None = None, asset_class: str | None = None, limit: int
) -> Found:
    """Search current definitions by venue and canonical symbol. `said` is when the venue said it; a symbol that it does
    not list any more has the status `withdrawn`. Raises like QueryEngine."""
    names = ", ".join((*_COMMON, *(one.name for one in INSTRUMENTS.own_fields)))
    rows = engine.query(
        f"SELECT {names} FROM market_data.symbols "
        "WHERE ($exchange IS NULL OR exchange = $exchange) AND ($asset_class IS NULL OR asset_class = $asset_class)",
        {"exchange": exchange, "asset_class": asset_class},
    ).to_pylist()
    return ranked(rows, text, limit)


def ranked(rows: Sequence[Mapping[str, Any]], text: str, limit: int) -> Found:
    """The rows that match a text, the best first. Pure."""
    places = ((rank(text, row["symbol"], row["canonical_symbol"]), row) for row in rows)
    matching = sorted(
        ((place, row) for place, row in places if place is not None),
        key=lambda one: (one[0], len(one[1]["symbol"]), one[1]["symbol"], one[1]["exchange"]),
    )
    near = () if matching else _near(rows, text)
    return Found([_shown(row) for _, row in matching[:limit]], len(matching), len(rows), near)


def rank(text: str, symbol: str, canonical: str | None) -> int | None:
    """How well a text fits: 0 is the whole name, 1 its beginning, 2 the beginning of one of its parts, 3 a part of it;
    None does not. Case, and the marks between parts, do not count."""
    wanted = plain(text)
    fits = [one for name in (symbol, canonical) if name is not None and (one := _fit(wanted, name)) is not None]
    return min(fits, default=None)


def plain(name: str) -> str:
    """Capitals and digits only."""
    return _MARKS.sub("", name.upper())


def _fit(wanted: str, name: str) -> int | None:
    whole = plain(name)
    if wanted == whole:
        return 0
    if whole.startswith(wanted):
        return 1
    if any(part.startswith(wanted) for part in _MARKS.split(name.upper())):
        return 2
    return 3 if wanted in whole else None


def _near(rows: Iterable[Mapping[str, Any]], text: str) -> list[str]:
    names = {plain(name): name for row in rows for name in (row["symbol"], row["canonical_symbol"]) if name is not None}
    return [names[one] for one in difflib.get_close_matches(plain(text), names, n=NEAR_NAMES)]


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    status = _WITHDRAWN if row["kind"] == KINDS[1] else row["status"]
    return {**{name: row.get(name) for name in columns_of()}, "status": status, "said": row["exchange_timestamp"]}
