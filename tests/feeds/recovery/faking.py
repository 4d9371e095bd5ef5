"""A source that has every number, or what a test lets it have; under the suite of all sources in test_sources.py."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from k2_dagster.errors import RecoveryRefused
from k2_dagster.feeds.recovery.source import MissingRange, Recovered, require_range
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.ticks import TICKS
from tests.ingest.helpers import ONE, START_MICROS

SECOND = 1_000_000


def tick_rows(exchange: str, numbers: Iterable[int], symbol: str = "A", **values: object) -> pa.RecordBatch:
    """Ticks as the exchange fixture publishes them: each at the second of its number."""
    rows = [
        {
            "exchange": exchange, "stream": "ticks_stream", "kind": "trade", "symbol": symbol, "sequence": one,
            "exchange_timestamp": START_MICROS + one * SECOND, "price": 5 * ONE, "size": 2 * ONE, "side": "buy",
            "conditions": [], **values,
        }
        for one in numbers
    ]  # fmt: skip
    return pa.RecordBatch.from_pylist(rows, schema=wire_schema(TICKS))


@dataclass
class FakeSource:
    """Gives the ticks of a range that `has` says yes to; `before` may raise. Of one exchange, if it is named."""

    has: Callable[[int], bool] = lambda _: True
    before: Callable[[MissingRange], None] = lambda _: None
    exhausted: bool = True
    exchange: str = ""
    asked: list[MissingRange] = field(default_factory=list)

    def fetch(self, missing: MissingRange) -> Recovered:
        self.asked.append(missing)
        self.before(missing)
        require_range(missing, least=1)
        if missing.channel or missing.dataset != "ticks" or missing.exchange != (self.exchange or missing.exchange):
            raise RecoveryRefused(f"not a range of ticks of {self.exchange}", advice="ask for a symbol's own numbers")
        numbers = [one for one in range(missing.first, missing.last + 1) if self.has(one)]
        rows = tick_rows(missing.exchange, numbers, missing.symbol, session=missing.session or None)
        return Recovered({"ticks": rows}, exhausted=self.exhausted, reason="the archive has no more of them")

    def close(self) -> None:
        """Nothing is held."""
