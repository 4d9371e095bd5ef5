"""`exchangeInfo` of Binance spot, USD-M and COIN-M futures."""

from typing import Any

from k2_dagster.feeds.capture.listings.listing import Definition, ListingSource, exact, from_milliseconds, text
from k2_dagster.schemas.canonical import RULES

# Other words (of auctions, settlements) mean one thing here and another there: those stay null.
_STATUSES = {
    "TRADING": "trading", "BREAK": "halted", "HALT": "halted", "PENDING_TRADING": "pending", "PRE_TRADING": "pending",
    "DELIVERED": "closed", "CLOSE": "closed",
}  # fmt: skip
_PERPETUAL = ("PERPETUAL", "TRADIFI_PERPETUAL")
# How the types of dated contracts end (CURRENT_QUARTER, NEXT_MONTH, CURRENT_QUARTER_DELIVERING).
_DATED = ("_QUARTER", "_MONTH", "_DELIVERING")
# Where the venue says what the base is, only coins are crypto.
_CRYPTO = ("COIN", None)


def _common(item: Any, rule: str, status: Any) -> dict[str, Any]:
    symbol, base, quote = (text(item[key], key) for key in ("symbol", "baseAsset", "quoteAsset"))
    filters = {one["filterType"]: one for one in item.get("filters", ())}
    return {
        "symbol": symbol,
        "canonical_symbol": RULES[rule].canonical(symbol, base, quote),
        "base_currency": base,
        "quote_currency": quote,
        "tick_size": exact(filters.get("PRICE_FILTER", {}).get("tickSize"), "tickSize"),
        "lot_size": exact(filters.get("LOT_SIZE", {}).get("stepSize"), "stepSize"),
        "status": _STATUSES.get(status),
        "venue_status": status,
    }


def _spot(item: Any) -> Definition:
    return {**_common(item, "binance", item.get("status")), "asset_class": "crypto", "instrument_type": "spot"}


def _future(item: Any, rule: str, status: Any) -> dict[str, Any]:
    kind = _type(item.get("contractType"))
    ends = from_milliseconds(item.get("deliveryDate"))
    return {
        **_common(item, rule, status),
        "asset_class": "crypto" if item.get("underlyingType") in _CRYPTO else None,
        "instrument_type": kind,
        "settlement_currency": item.get("marginAsset"),
        "expiry": ends if kind == "future" else None,
        "valid_from": from_milliseconds(item.get("onboardDate")),
        "valid_to": ends,
    }


def _type(contract_type: Any) -> str | None:
    """None for a contract that is being wound up, of which the venue does not tell any more what it was."""
    if contract_type in _PERPETUAL:
        return "perpetual"
    return "future" if isinstance(contract_type, str) and contract_type.endswith(_DATED) else None


def _usdm(item: Any) -> Definition:
    return _future(item, "binance_usdm", item.get("status"))


def _coinm(item: Any) -> Definition:
    found = _future(item, "binance_coinm", item.get("contractStatus"))
    worth = exact(item.get("contractSize"), "contractSize")
    unit = None if worth is None else found["quote_currency"]
    return {**found, "contract_multiplier": worth, "contract_unit": unit}


def _source(url: str, read: Any) -> ListingSource:
    return ListingSource(
        url, lambda answer: answer["symbols"], read, told_micros=lambda answer: from_milliseconds(answer["serverTime"])
    )


SPOT = _source("https://api.binance.com/api/v3/exchangeInfo", _spot)
USDM = _source("https://fapi.binance.com/fapi/v1/exchangeInfo", _usdm)
COINM = _source("https://dapi.binance.com/dapi/v1/exchangeInfo", _coinm)
