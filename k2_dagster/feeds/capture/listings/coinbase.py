"""`/products` of Coinbase's exchange API."""

from typing import Any

from k2_dagster.feeds.capture.listings.listing import Definition, ListingSource, exact, text
from k2_dagster.schemas.canonical import RULES

_STATUSES = {"online": "trading", "offline": "halted", "delisted": "closed"}
# Of a product that is online: nothing is traded while one of these holds.
_STOPPED = ("trading_disabled", "cancel_only")


def _read(item: Any) -> Definition:
    symbol, base, quote = (text(item[key], key) for key in ("id", "base_currency", "quote_currency"))
    said = item.get("status")
    stopped = [one for one in _STOPPED if item.get(one) is True]
    status = _STATUSES.get(said)
    return {
        "symbol": symbol,
        "canonical_symbol": RULES["coinbase"].canonical(symbol, base, quote),
        "asset_class": "crypto",
        "instrument_type": "spot",
        "base_currency": base,
        "quote_currency": quote,
        "tick_size": exact(item.get("quote_increment"), "quote_increment"),
        "lot_size": exact(item.get("base_increment"), "base_increment"),
        "status": "halted" if status == "trading" and stopped else status,
        "venue_status": ", ".join([said, *stopped]) if said is not None else None,
    }


COINBASE = ListingSource(
    "https://api.exchange.coinbase.com/products", lambda answer: answer, _read, symbol_of=lambda item: item["id"]
)
