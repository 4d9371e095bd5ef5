"""Canonical symbols: what each venue's rule says, and that it can be turned back."""

import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.schemas.canonical import PERPETUAL, RULES, Parts, parts_of
from k2_dagster.schemas.instruments import CANONICAL_RULE

EXAMPLES = [
    ("binance", "BTCUSDT", "BTC-USDT"),
    ("binance", "ETHBTC", "ETH-BTC"),
    ("binance_usdm", "BTCUSDT", "BTC-USDT-PERP"),
    ("binance_usdm", "BTCUSDT_261225", "BTC-USDT-20261225"),
    ("binance_coinm", "BTCUSD_PERP", "BTC-USD-PERP-INVERSE"),
    ("binance_coinm", "ETHUSD_261225", "ETH-USD-20261225-INVERSE"),
    ("coinbase", "BTC-USD", "BTC-USD"),
    ("kraken", "XBT/USD", "BTC-USD"),
    ("kraken", "XDG/XBT", "DOGE-BTC"),
    ("kraken", "ETH/EUR", "ETH-EUR"),
    ("kraken_futures", "PI_XBTUSD", "BTC-USD-PERP-INVERSE"),
    ("kraken_futures", "PF_XBTUSD", "BTC-USD-PERP"),
    ("kraken_futures", "FI_ETHUSD_210730", "ETH-USD-20210730-INVERSE"),
    ("kraken_futures", "FF_XBTUSD_261225", "BTC-USD-20261225"),
    ("us_equities", "AAPL", "AAPL"),
]
UNKNOWN = [
    ("binance", "BTC"),
    ("binance", "USDT"),
    ("binance", "BTCXYZ"),
    ("binance", "BTCUSDT_261225"),
    ("binance_usdm", "BTCUSDT_261399"),
    ("binance_usdm", "BTCUSDT_PERP"),
    ("binance_coinm", "BTCUSD"),
    ("coinbase", "BTC-PERP"),
    ("coinbase", "BTC"),
    ("kraken", "BTC/USD"),
    ("kraken", "AAPLx/USD"),
    ("kraken", "ETH"),
    ("kraken_futures", "PV_XRPXBT"),
    ("kraken_futures", "PI_BTCUSD"),
    ("kraken_futures", "PI_XBTUSD_261225"),
    ("kraken_futures", "FI_XBTUSD"),
    ("us_equities", "BRK.A"),
    ("us_equities", "GOOGLE"),
]
ASSETS = st.from_regex(r"[A-Z0-9]{1,12}", fullmatch=True)
DAYS = st.dates(date(2000, 1, 1), date(2099, 12, 31)).map(lambda day: f"{day:%Y%m%d}")
NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=24)


@pytest.mark.parametrize(("venue", "symbol", "canonical"), EXAMPLES)
def test_what_each_rule_says(venue: str, symbol: str, canonical: str) -> None:
    assert RULES[venue].canonical(symbol) == canonical
    assert RULES[venue].symbol(canonical) == symbol


@pytest.mark.parametrize(("venue", "symbol"), UNKNOWN)
def test_what_a_rule_cannot_know_has_none(venue: str, symbol: str) -> None:
    assert RULES[venue].canonical(symbol) is None


def test_the_same_thing_has_one_name_at_every_venue() -> None:
    names = {RULES[venue].canonical(symbol) for venue, symbol in [("coinbase", "BTC-USD"), ("kraken", "XBT/USD")]}
    assert names == {"BTC-USD"}
    inverse = [("binance_coinm", "BTCUSD_PERP"), ("kraken_futures", "PI_XBTUSD")]
    assert {RULES[venue].canonical(symbol) for venue, symbol in inverse} == {"BTC-USD-PERP-INVERSE"}


@given(st.sampled_from(sorted(RULES)), NAMES)
def test_whatever_has_a_canonical_symbol_is_found_again_by_it(venue: str, symbol: str) -> None:
    canonical = RULES[venue].canonical(symbol)
    if canonical is not None:
        assert RULES[venue].symbol(canonical) == symbol
        assert re.fullmatch(CANONICAL_RULE.pattern or "", canonical)
        assert parts_of(canonical) is not None


@given(st.sampled_from(sorted(RULES)), ASSETS, ASSETS, st.one_of(st.just(""), st.just(PERPETUAL), DAYS), st.booleans())
def test_two_symbols_of_a_venue_never_share_one(
    venue: str, base: str, quote: str, maturity: str, inverse: bool
) -> None:
    """From the other side: every canonical symbol is of at most one symbol, and what is written is read again."""
    rule, parts = RULES[venue], Parts(base, quote, maturity, inverse)
    symbol = rule.symbol(parts.text)
    if symbol is not None:
        # As the venue tells it beside the symbol, in its own names
        own = {common: name for name, common in rule.assets.items()}
        again = rule.canonical(symbol, own.get(base, base), own.get(quote, quote))
        assert again == parts.text


@given(ASSETS, ASSETS)
def test_what_the_venue_says_of_base_and_quote_decides(base: str, quote: str) -> None:
    rule = RULES["binance"]
    found = rule.canonical(base + quote, base, quote)
    assert found == (None if quote == PERPETUAL else f"{base}-{quote}")
    assert rule.canonical(base + quote + "X", base, quote) is None


@given(ASSETS, ASSETS, st.one_of(st.just(PERPETUAL), DAYS), st.booleans())
def test_a_canonical_symbol_is_taken_apart_as_it_was_put_together(
    base: str, quote: str, maturity: str, inverse: bool
) -> None:
    parts = Parts(base, quote, maturity, inverse)
    assert parts_of(parts.text) == (None if quote == PERPETUAL else parts)


@pytest.mark.parametrize(
    "text", ["", "-", "BTC-", "-USD", "BTC-USD-", "BTC-USD-20261399", "BTC-USD-INVERSE", "btc-usd", "A-B-PERP-X"]
)
def test_what_is_no_canonical_symbol_has_no_parts(text: str) -> None:
    assert parts_of(text) is None
    assert RULES["binance"].symbol(text) is None
