"""What a simulated exchange says of its symbols: at its start, and whenever it opens.

The market is the simulator's own, so what it says of it is true by construction; what no symbol of its has is null.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from k2_dagster.feeds.capture.block import timestamps, wire_batch
from k2_dagster.feeds.simulator.feed import LATENCY_MICROS, FeedParameters
from k2_dagster.feeds.simulator.symbols import Instruments
from k2_dagster.schemas.arrow import TIMESTAMP
from k2_dagster.schemas.canonical import RULES
from k2_dagster.schemas.common import MICROS_PER_SECOND
from k2_dagster.schemas.declaration import SIZE_SCALE
from k2_dagster.schemas.instruments import INSTRUMENTS, STREAM
from k2_dagster.schemas.profiles import ExchangeProfile
from k2_dagster.schemas.topics import INSTRUMENTS_DATASET

_TYPES = {"equities": "equity", "crypto": "spot", "futures": "future"}
_QUOTES = {"equities": "USD", "crypto": "USDT", "futures": "JPY"}
# Month and last digit of the year at the end of a future's name, as venues code them.
_CONTRACT = re.compile(r"([FGHJKMNQUVXZ])(\d)$")
_MONTHS = "FGHJKMNQUVXZ"
_FRIDAY = 4


class Definitions:
    """Of one run, which asks with times that do not fall."""

    def __init__(self, profile: ExchangeProfile, instruments: Instruments, parameters: FeedParameters) -> None:
        self._profile = profile
        self._instruments = instruments
        self._exchange = parameters.exchange
        start = parameters.start_micros
        self._year = datetime.fromtimestamp(start / MICROS_PER_SECOND, UTC).year
        self._openings = _openings(profile, start)
        self._next = start

    def due(self, upto_micros: int) -> Iterator[int]:
        """When definitions are due, up to this time and not before the last call's."""
        while self._next <= upto_micros:
            yield self._next
            self._next = next(self._openings)

    def rows(self, micros: int, *, stamped: bool) -> pa.RecordBatch:
        """All of them in wire form; with publish times of the schedule if `stamped`, else the publisher gives them."""
        names, kind = self._instruments.names, self._profile.asset_class
        count = len(names)
        received = timestamps([micros + LATENCY_MICROS] * count)
        contracts = [self._profile.contract_value_of(name) for name in names]
        worth = [one.split(" ") if one is not None else (None, None) for one in contracts]
        expiries = [self._expiry(name) for name in names]
        said: dict[str, Any] = {
            "symbol": names,
            "exchange_timestamp": timestamps([micros] * count),
            "receive_timestamp": received,
            "publish_timestamp": received if stamped else None,
            "canonical_symbol": [canonical(kind, name) for name in names],
            "asset_class": kind,
            "instrument_type": _TYPES.get(kind),
            "base_currency": [_base(kind, name) for name in names],
            "quote_currency": _QUOTES.get(kind),
            "tick_size": self._instruments.tick,
            "lot_size": self._instruments.lot,
            "contract_multiplier": [None if one is None else int(Decimal(one).scaleb(SIZE_SCALE)) for one, _ in worth],
            "contract_unit": [unit for _, unit in worth],
            "expiry": pa.array(expiries, pa.int64()).view(TIMESTAMP),
            "valid_to": pa.array(expiries, pa.int64()).view(TIMESTAMP),
            "status": "trading",
        }
        fixed = {"exchange": self._exchange, "stream": STREAM, "kind": INSTRUMENTS.kinds[0]}
        return wire_batch(INSTRUMENTS_DATASET, count, {**fixed, **said})

    def _expiry(self, name: str) -> int | None:
        found = _CONTRACT.search(name) if self._profile.asset_class == "futures" else None
        return None if found is None else expiry_micros(found[1], int(found[2]), self._year)


def canonical(asset_class: str, name: str) -> str | None:
    """By the rules of real venues. A future's name tells its month, not its day, so it has none."""
    if asset_class == "crypto":
        return RULES["binance"].canonical(name)
    return RULES["us_equities"].canonical(name) if asset_class == "equities" else None


def expiry_micros(month_code: str, year_digit: int, year: int) -> int:
    """The second Friday of the coded month, in the first year from `year` on that ends in the digit (UTC)."""
    year += (year_digit - year) % 10
    first = date(year, _MONTHS.index(month_code) + 1, 1)
    day = first + timedelta(days=(_FRIDAY - first.weekday()) % 7 + 7)
    return int(datetime.combine(day, time(), UTC).timestamp()) * MICROS_PER_SECOND


def _base(asset_class: str, name: str) -> str | None:
    quote = _QUOTES["crypto"]
    return name.removesuffix(quote) if asset_class == "crypto" and name.endswith(quote) else None


def _openings(profile: ExchangeProfile, start_micros: int) -> Iterator[int]:
    """Each day's opening after the start, for ever: at the profile's hour, or where it has none at midnight there."""
    zone = ZoneInfo(profile.timezone)
    clock = time.fromisoformat(profile.opens) if profile.opens is not None else time()
    day = datetime.fromtimestamp(start_micros / MICROS_PER_SECOND, zone).date()
    while True:
        opens = int(datetime.combine(day, clock, zone).timestamp()) * MICROS_PER_SECOND
        if opens > start_micros:
            yield opens
        day += timedelta(days=1)
