"""Past trades of Coinbase: `/products/{id}/trades`, newest first, with `after` a trade id to begin below.

Its trades are those of the stream `match`. What the answer lacks is left empty: the venue's `sequence`, a condition of
live rows.
"""

import threading
from urllib.parse import quote

from k2_dagster.feeds.capture.coinbase import MATCH
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

URL = "https://api.exchange.coinbase.com"
PAGE = 1_000
_NAMES = ("trade_id", "time", "price", "size", "side")


class CoinbaseTrades:
    """See `RecoverySource`."""

    def __init__(
        self, exchange: str, stop: threading.Event, url: str | None = None, between_seconds: float = BETWEEN_SECONDS
    ) -> None:
        self._exchange = exchange
        self._client = RestClient(url or URL, stop, between_seconds=between_seconds)

    def fetch(self, missing: MissingRange) -> Recovered:
        """See `RecoverySource`."""
        require_trades(missing, self._exchange, MATCH.name)
        path = f"/products/{quote(missing.symbol, safe='')}/trades"
        found: dict[int, Trade] = {}
        below = missing.last + 1
        for _ in range(MOST_PAGES):
            page = self._client.trades(path, {"after": below, "limit": min(PAGE, below - missing.first)})
            numbered = {number: one for one in page if (number := whole_number(one, "trade_id")) is not None}
            found |= {number: one for number, one in numbered.items() if missing.first <= number <= missing.last}
            lowest = min((number for number in numbered if number < below), default=-1)
            if lowest <= missing.first:
                return self._answer(missing, found, at_end=True)
            below = lowest
        return self._answer(missing, found, at_end=False)

    def close(self) -> None:
        """See `RecoverySource`."""
        self._client.close()

    def _answer(self, missing: MissingRange, found: dict[int, Trade], *, at_end: bool) -> Recovered:
        messages = [
            {"product_id": missing.symbol, **{name: trade[name] for name in _NAMES if name in trade}}
            for _, trade in sorted(found.items())
        ]
        return answer_of(missing, MATCH, messages, at_end=at_end)
