"""Canonical symbols: one name for the same thing at every venue, by one rule per venue that can be reversed.

    BASE-QUOTE                  spot                              BTC-USDT
    BASE-QUOTE-PERP             perpetual, settled in its quote   BTC-USDT-PERP
    BASE-QUOTE-PERP-INVERSE     perpetual, settled in its base    BTC-USD-PERP-INVERSE
    BASE-QUOTE-YYYYMMDD         dated future, settled in its quote
    BASE-QUOTE-YYYYMMDD-INVERSE dated future, settled in its base
    TICKER                      US shares                         AAPL

A rule never guesses: what it could not turn back into the same venue symbol, or could read in two ways, has none.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import NamedTuple

PERPETUAL, INVERSE = "PERP", "INVERSE"
_ASSET = re.compile(r"[A-Z0-9]{1,20}")
_TICKER = re.compile(r"[A-Z]{1,5}")
_DAY = re.compile(r"\d{8}")
_SHORT_DAY = re.compile(r"\d{6}")
# Venues write two digits of the year. None of them is older than this century.
_CENTURY = "20"


class Parts(NamedTuple):
    """A canonical symbol taken apart. `maturity` is PERP or a day (YYYYMMDD) of a derivative, empty for spot; `quote`
    is empty only for a share."""

    base: str
    quote: str = ""
    maturity: str = ""
    inverse: bool = False

    @property
    def text(self) -> str:
        """The canonical symbol."""
        return "-".join(one for one in (self.base, self.quote, self.maturity, INVERSE * self.inverse) if one)


def parts_of(canonical: str) -> Parts | None:
    """A canonical symbol taken apart; None for what is none."""
    base, *rest = canonical.split("-")
    inverse = len(rest) == 3 and rest[2] == INVERSE
    quote, maturity, *more = [*(rest[:2] if inverse else rest), "", ""]
    found = Parts(base, quote, maturity, inverse)
    return found if not any(more) and _is_valid(found) and found.text == canonical else None


def _is_valid(parts: Parts) -> bool:
    if not parts.quote:
        return bool(_TICKER.fullmatch(parts.base)) and not parts.maturity and not parts.inverse
    dated = parts.maturity in ("", PERPETUAL) or _is_day(parts.maturity)
    named = _ASSET.fullmatch(parts.base) and _ASSET.fullmatch(parts.quote) and parts.quote != PERPETUAL
    return bool(named) and dated and (bool(parts.maturity) or not parts.inverse)


def _is_day(text: str) -> bool:
    if not _DAY.fullmatch(text):
        return False
    try:
        date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class SymbolRule:
    """A venue's rule. `assets` are the venue's own names of assets, with everybody's; `read` takes a symbol apart
    (given the base and the quote where the venue told them), `write` puts it together, both in the venue's names."""

    words: str
    read: Callable[[str, str | None, str | None], Parts | None]
    write: Callable[[Parts], str | None]
    assets: Mapping[str, str] = field(default_factory=dict)

    def canonical(self, symbol: str, base: str | None = None, quote: str | None = None) -> str | None:
        """The canonical symbol of a venue's symbol, or None. `base` and `quote` as the venue names them, if it does."""
        found = self.read(symbol, base, quote)
        if found is None:
            return None
        parts = found._replace(base=self._common(found.base), quote=self._common(found.quote))
        return parts.text if parts_of(parts.text) == parts and self.symbol(parts.text) == symbol else None

    def symbol(self, canonical: str) -> str | None:
        """The venue's symbol of a canonical one; None for what the venue could not have."""
        parts = parts_of(canonical)
        if parts is None:
            return None
        own = {common: venue for venue, common in self.assets.items()}
        return self.write(parts._replace(base=own.get(parts.base, parts.base), quote=own.get(parts.quote, parts.quote)))

    def _common(self, asset: str) -> str:
        return self.assets.get(asset, asset)


def _pair(text: str, base: str | None, quote: str | None, quotes: Sequence[str]) -> tuple[str, str] | None:
    """Where a pair without a separator ends its base: where the venue says, else behind the only quote that fits."""
    if base is not None and quote is not None:
        return (base, quote) if text == base + quote else None
    fitting = [one for one in quotes if text.endswith(one) and len(text) > len(one)]
    return (text.removesuffix(fitting[0]), fitting[0]) if len(fitting) == 1 else None


def _future_maturity(text: str) -> str:
    return _CENTURY + text if _SHORT_DAY.fullmatch(text) else ""


def _read_joined(symbol: str, base: str | None, quote: str | None, *, quotes: Sequence[str]) -> Parts | None:
    pair = _pair(symbol, base, quote, quotes)
    return None if pair is None else Parts(*pair)


def _write_joined(parts: Parts) -> str | None:
    return parts.base + parts.quote if parts.quote and not parts.maturity else None


def _read_binance_future(
    symbol: str, base: str | None, quote: str | None, *, quotes: Sequence[str], inverse: bool
) -> Parts | None:
    name, mark, tail = symbol.partition("_")
    pair = _pair(name, base, quote, quotes)
    is_perpetual = tail == PERPETUAL if inverse else not mark
    maturity = PERPETUAL if is_perpetual else _future_maturity(tail)
    return None if pair is None or not maturity else Parts(*pair, maturity, inverse)


def _write_binance_future(parts: Parts, *, inverse: bool) -> str | None:
    if not parts.maturity or parts.inverse != inverse:
        return None
    if parts.maturity == PERPETUAL:
        return f"{parts.base}{parts.quote}_{PERPETUAL}" if inverse else parts.base + parts.quote
    return _with_day(parts, f"{parts.base}{parts.quote}")


def _with_day(parts: Parts, name: str) -> str | None:
    return f"{name}_{parts.maturity[2:]}" if parts.maturity.startswith(_CENTURY) else None


def _read_separated(symbol: str, base: str | None, quote: str | None, *, mark: str) -> Parts | None:
    found = symbol.split(mark)
    if len(found) != 2 or not all(found) or (base is not None and quote is not None and found != [base, quote]):
        return None
    return Parts(found[0], found[1])


def _write_separated(parts: Parts, *, mark: str) -> str | None:
    return f"{parts.base}{mark}{parts.quote}" if parts.quote and not parts.maturity else None


# Of Kraken Futures' prefixes: whether the contract is settled in its base, and whether it is dated.
_KRAKEN_KINDS = {"PI": (True, False), "PF": (False, False), "FI": (True, True), "FF": (False, True)}


def _read_kraken_future(symbol: str, base: str | None, quote: str | None, *, quotes: Sequence[str]) -> Parts | None:
    kind, _, rest = symbol.partition("_")
    if kind not in _KRAKEN_KINDS:
        return None
    inverse, dated = _KRAKEN_KINDS[kind]
    name, mark, tail = rest.partition("_")
    pair = _pair(name, base, quote, quotes)
    maturity = _future_maturity(tail) if dated else "" if mark else PERPETUAL
    return None if pair is None or not maturity else Parts(*pair, maturity, inverse)


def _write_kraken_future(parts: Parts) -> str | None:
    if not parts.maturity:
        return None
    wanted = (parts.inverse, parts.maturity != PERPETUAL)
    kind = next(one for one, meaning in _KRAKEN_KINDS.items() if meaning == wanted)
    name = f"{kind}_{parts.base}{parts.quote}"
    return name if parts.maturity == PERPETUAL else _with_day(parts, name)


def _read_ticker(symbol: str, base: str | None, quote: str | None) -> Parts | None:  # noqa: ARG001  (one form for all)
    return Parts(symbol) if _TICKER.fullmatch(symbol) else None


def _write_ticker(parts: Parts) -> str | None:
    return parts.base if not parts.quote else None


# Quotes by which a pair without a separator is taken apart where the venue does not say. No one of them is the end of
# another, so a symbol that ends in one is not read in two ways.
_SPOT_QUOTES = ("USDT", "USDC", "BTC", "ETH", "BNB", "EUR", "TRY", "BRL", "JPY")
_USDM_QUOTES = ("USDT", "USDC", "BTC")
_USD = ("USD",)

RULES: Mapping[str, SymbolRule] = {
    "binance": SymbolRule(
        "base and quote together: BTCUSDT", partial(_read_joined, quotes=_SPOT_QUOTES), _write_joined
    ),
    "binance_usdm": SymbolRule(
        "as spot, dated ones with _YYMMDD: BTCUSDT, BTCUSDT_261225",
        partial(_read_binance_future, quotes=_USDM_QUOTES, inverse=False),
        partial(_write_binance_future, inverse=False),
    ),
    "binance_coinm": SymbolRule(
        "with _PERP or _YYMMDD, settled in the base: BTCUSD_PERP, BTCUSD_261225",
        partial(_read_binance_future, quotes=_USD, inverse=True),
        partial(_write_binance_future, inverse=True),
    ),
    "coinbase": SymbolRule(
        "with a dash: BTC-USD", partial(_read_separated, mark="-"), partial(_write_separated, mark="-")
    ),
    "kraken": SymbolRule(
        "with a slash, XBT and XDG for BTC and DOGE: XBT/USD",
        partial(_read_separated, mark="/"),
        partial(_write_separated, mark="/"),
        {"XBT": "BTC", "XDG": "DOGE"},
    ),
    "kraken_futures": SymbolRule(
        "PF_ and FF_ settled in the quote, PI_ and FI_ in the base, XBT for BTC: PI_XBTUSD, FF_XBTUSD_261225",
        partial(_read_kraken_future, quotes=_USD),
        _write_kraken_future,
        {"XBT": "BTC"},
    ),
    "us_equities": SymbolRule("one to five capitals, as they are: AAPL", _read_ticker, _write_ticker),
}
