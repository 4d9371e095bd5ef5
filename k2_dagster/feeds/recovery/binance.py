"""Past trades of Binance: `historicalTrades` of spot, USD-M and COIN-M, by id (`fromId`, rising).

Its trades are those of the stream `trade`: same ids, prices and times. What the answer lacks is left empty: the order
type of futures (`X`, a condition of live rows). Futures leave out trades of insurance fund and ADL: their ids jump.
"""

import threading
from dataclasses import dataclass

from k2_dagster.feeds.capture.binance_ws import SPOT
from k2_dagster.feeds.recovery.rest import (
    BETWEEN_SECONDS,
    MOST_PAGES,
    RestClient,
    Trade,
    answer_of,
    require_trades,
    whole_number,
)
from k2_dagster.feeds.recovery.source import MissingRange, Recovered
from k2_dagster.settings import Settings, environment_name

KEY_HEADER = "X-MBX-APIKEY"
STREAM, AGGREGATED = "trade", "aggTrade"
# Of the stream's message, the name of the same in an answer.
_NAMES = {"t": "id", "p": "price", "q": "qty", "T": "time", "m": "isBuyerMaker"}


@dataclass(frozen=True, slots=True)
class Market:
    """Where a market answers, and the most trades on a page."""

    url: str
    path: str
    page: int


SPOT_MARKET = Market("https://api.binance.com", "/api/v3/historicalTrades", 1_000)
USDM_MARKET = Market("https://fapi.binance.com", "/fapi/v1/historicalTrades", 500)
COINM_MARKET = Market("https://dapi.binance.com", "/dapi/v1/historicalTrades", 500)


class BinanceTrades:
    """See `RecoverySource`."""

    def __init__(
        self,
        settings: Settings,
        exchange: str,
        market: Market,
        stop: threading.Event,
        url: str | None = None,
        between_seconds: float = BETWEEN_SECONDS,
    ) -> None:
        key = settings.binance_api_key
        self._exchange = exchange
        self._market = market
        self._client = RestClient(
            url or market.url,
            stop,
            {KEY_HEADER: key.get_secret_value()} if key else None,
            environment_name("binance_api_key"),
            between_seconds,
        )

    def fetch(self, missing: MissingRange) -> Recovered:
        """See `RecoverySource`."""
        require_trades(missing, self._exchange, STREAM, AGGREGATED)
        found: dict[int, Trade] = {}
        wanted = missing.first
        for _ in range(MOST_PAGES):
            limit = min(self._market.page, missing.last - wanted + 1)
            query: dict[str, str | int] = {"symbol": missing.symbol, "fromId": wanted, "limit": limit}
            page = self._client.trades(self._market.path, query)
            numbered = {number: one for one in page if (number := whole_number(one, "id")) is not None}
            found |= {number: one for number, one in numbered.items() if missing.first <= number <= missing.last}
            highest = max(numbered, default=-1)
            if highest < wanted or highest >= missing.last:
                return self._answer(missing, found, at_end=True)
            wanted = highest + 1
        return self._answer(missing, found, at_end=False)

    def close(self) -> None:
        """See `RecoverySource`."""
        self._client.close()

    def _answer(self, missing: MissingRange, found: dict[int, Trade], *, at_end: bool) -> Recovered:
        messages = [
            {"s": missing.symbol, **{name: trade[key] for name, key in _NAMES.items() if key in trade}}
            for _, trade in sorted(found.items())
        ]
        return answer_of(missing, SPOT[STREAM], messages, at_end=at_end)
