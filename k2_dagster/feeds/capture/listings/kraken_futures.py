"""`instruments` of Kraken Futures."""

from typing import Any

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.listings.listing import Definition, ListingSource, exact, from_iso, step, text
from k2_dagster.schemas.canonical import RULES


def _items(answer: Any) -> Any:
    if answer["result"] != "success":
        raise CaptureInvalid(f"the venue says {answer['result']}: {answer.get('error')}", advice="ask again later")
    return answer["instruments"]


def _read(item: Any) -> Definition:
    # Answers have had symbols in small letters; its websocket tells them in capitals
    symbol, kind = text(item["symbol"], "symbol").upper(), text(item["type"], "type")
    base, quote = item.get("base"), item.get("quote")
    worth = exact(item.get("contractSize"), "contractSize")
    expiry, tradeable = from_iso(item.get("lastTradingTime")), item.get("tradeable")
    is_inverse = symbol[:3] in ("PI_", "FI_")
    return {
        "symbol": symbol,
        "canonical_symbol": RULES["kraken_futures"].canonical(symbol, base, quote),
        # Shares, metals and currencies are among them
        "asset_class": None if item.get("tradfi") else "crypto",
        "instrument_type": _type(kind, expiry),
        "base_currency": base,
        "quote_currency": quote,
        "settlement_currency": base if is_inverse else None,
        "tick_size": exact(item.get("tickSize"), "tickSize"),
        "lot_size": step(item.get("contractValueTradePrecision"), "contractValueTradePrecision"),
        "contract_multiplier": worth,
        "contract_unit": None if worth is None else quote if is_inverse else base,
        "expiry": expiry,
        "valid_from": from_iso(item.get("openingDate")),
        "valid_to": expiry,
        "status": None if tradeable is None else "trading" if tradeable else "halted",
        "venue_status": None if tradeable is None else "tradeable" if tradeable else "not tradeable",
    }


def _type(kind: str, expiry: int | None) -> str | None:
    if "option" in kind:
        return "option"
    return "perpetual" if expiry is None else "future"


KRAKEN_FUTURES = ListingSource(
    "https://futures.kraken.com/derivatives/api/v3/instruments", _items, _read,
    symbol_of=lambda item: item["symbol"].upper(), told_micros=lambda answer: from_iso(answer.get("serverTime")),
)  # fmt: skip
