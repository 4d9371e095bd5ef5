"""`AssetPairs` of Kraken spot, by the names that its websocket has."""

from typing import Any

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.listings.listing import Definition, ListingSource, exact, step, text
from k2_dagster.schemas.canonical import RULES

_STATUSES = {
    "online": "trading", "limit_only": "trading", "cancel_only": "halted", "post_only": "halted", "delisted": "closed",
    "work_in_progress": "pending",
}  # fmt: skip
# Government currencies that are traded against each other there, too.
_FIAT = frozenset(("USD", "EUR", "GBP", "CAD", "JPY", "CHF", "AUD"))


def _items(answer: Any) -> Any:
    if answer["error"]:
        raise CaptureInvalid(f"the venue says {answer['error']}", advice="ask again later", field="error")
    return list(answer["result"].values())


def _read(item: Any) -> Definition | None:
    if "wsname" not in item:
        # Dark pools: nobody can subscribe to them
        return None
    symbol, status = text(item["wsname"], "wsname"), item.get("status")
    base, mark, quote = symbol.partition("/")
    tick = item.get("tick_size")
    return {
        "symbol": symbol,
        "canonical_symbol": RULES["kraken"].canonical(symbol),
        "asset_class": _asset_class(item.get("aclass_base"), base, quote),
        "instrument_type": "spot",
        "base_currency": base if mark else None,
        "quote_currency": quote if mark else None,
        "tick_size": exact(tick, "tick_size") if tick is not None else step(item.get("pair_decimals"), "pair_decimals"),
        "lot_size": step(item.get("lot_decimals"), "lot_decimals"),
        "status": _STATUSES.get(status),
        "venue_status": status,
    }


def _asset_class(kind: Any, base: str, quote: str) -> str | None:
    if kind not in ("currency", None):
        # Shares as tokens, by now
        return None
    return "fx" if {base, quote} <= _FIAT else "crypto"


KRAKEN = ListingSource(
    "https://api.kraken.com/0/public/AssetPairs", _items, _read, symbol_of=lambda item: item["wsname"]
)
