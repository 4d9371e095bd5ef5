"""The view `symbols`, and searching it."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.query.symbols import Found, columns_of, find_symbols, plain, rank, ranked
from tests.query.lake import START, Lake

NAMES = st.text("ABUSDT12-/_", min_size=1, max_size=8)


def said(symbol: str, hours: float = 0, **others: Any) -> dict[str, Any]:
    """A row of instruments, that many hours after 1 March 2026, noon."""
    row = {"exchange": "alpha", "symbol": symbol, "kind": "definition", "stream": "instruments"}
    return {**row, "exchange_timestamp": START + timedelta(hours=hours), **others}


def names(found: Found) -> list[str]:
    return [row["symbol"] for row in found.rows]


def test_symbols_are_what_was_said_last_by_the_messages_own_time(empty_lake: Lake) -> None:
    empty_lake.append("instruments", [said("A", 5, status="halted", kafka_offset=1), said("B", kafka_offset=2)])
    empty_lake.append("instruments", [said("A", 1, status="trading", kafka_offset=9), said("A", exchange="beta")])
    empty_lake.append("instruments", [said("B", 0, status="closed", kafka_offset=3)])
    current = "SELECT exchange, symbol, status FROM market_data.symbols ORDER BY ALL"
    assert empty_lake.ask(current) == [("alpha", "A", "halted"), ("alpha", "B", "closed"), ("beta", "A", None)]


def test_a_condition_does_not_make_an_older_definition_the_current_one(empty_lake: Lake) -> None:
    """It is about what is current: planning must not leave out the files that say so, whoever else is asked."""
    empty_lake.append("instruments", [said("A", 0, status="trading")])
    empty_lake.append("instruments", [said("A", 48, status="halted")])
    day = "date = DATE '2026-03-01'"
    assert empty_lake.ask(f"SELECT status FROM market_data.symbols WHERE {day}") == []
    both = f"""SELECT i.status AS before, s.status AS now
               FROM market_data.instruments i JOIN market_data.symbols s USING (symbol) WHERE i.{day}"""
    assert empty_lake.ask(both) == [("trading", "halted")]
    alone = f"SELECT status FROM market_data.instruments WHERE {day}"
    assert empty_lake.ask(alone) == [("trading",)]
    (plan,) = empty_lake.engine().explain(alone)
    assert len(plan.files) == 1


def test_a_statement_that_hides_its_tables_finds_them(empty_lake: Lake) -> None:
    empty_lake.append("instruments", [said("A")])
    hidden = "SELECT * FROM query('SELECT symbol FROM market_data.symbols')"
    assert empty_lake.ask(hidden) == [("A",)]


def test_the_best_match_comes_first_and_what_a_search_does_not_show_is_counted(empty_lake: Lake) -> None:
    rows = [
        said("XBT/USD", exchange="kraken", canonical_symbol="BTC-USD", asset_class="crypto"),
        said("BTCUSDT", exchange="binance", canonical_symbol="BTC-USDT", asset_class="crypto"),
        said("WBTCETH", exchange="binance", canonical_symbol="WBTC-ETH", asset_class="crypto"),
        said("ETHBTC", exchange="binance", canonical_symbol="ETH-BTC", asset_class="crypto"),
        said(
            "BTC", exchange="iex", canonical_symbol="BTC", asset_class="equities", kind="withdrawal", status="trading"
        ),
        said("AAPL", exchange="iex", canonical_symbol="AAPL", asset_class="equities"),
    ]
    empty_lake.append("instruments", rows)
    with empty_lake.engine() as engine:
        found = find_symbols(engine, "btc", limit=10)
        assert names(found) == ["BTC", "BTCUSDT", "XBT/USD", "ETHBTC", "WBTCETH"]
        assert (found.matches, found.known) == (5, 6)
        assert found.rows[0]["status"] == "withdrawn"
        assert tuple(found.rows[0]) == columns_of()
        assert names(find_symbols(engine, "btc-usd", exchange="kraken", limit=10)) == ["XBT/USD"]
        assert names(find_symbols(engine, asset_class="equities", limit=10)) == ["BTC", "AAPL"]
        few = find_symbols(engine, "btc", limit=2)
        assert (len(few.rows), few.matches) == (2, 5)
        none = find_symbols(engine, "APLA", limit=2)
        assert (none.rows, none.matches, list(none.near)) == ([], 0, ["AAPL"])


@pytest.mark.parametrize(
    ("text", "symbol", "canonical", "expected"),
    [
        ("xbtusd", "XBT/USD", "BTC-USD", 0),
        ("btc/usd", "XBT/USD", "BTC-USD", 0),
        ("PI_XBT", "PI_XBTUSD", None, 1),
        ("usd", "XBT/USD", "BTC-USD", 2),
        ("bt", "XBT/USD", None, 3),
        ("eth", "XBT/USD", "BTC-USD", None),
        ("", "X", None, 1),
    ],
)
def test_how_well_a_text_fits(text: str, symbol: str, canonical: str | None, expected: int | None) -> None:
    assert rank(text, symbol, canonical) == expected


@given(st.lists(st.tuples(NAMES, st.none() | NAMES), max_size=12), NAMES, st.integers(1, 12))
def test_a_search_gives_the_best_of_all_that_contain_the_text(
    pairs: list[tuple[str, str | None]], text: str, limit: int
) -> None:
    rows = [{**said(symbol), "canonical_symbol": canonical, "status": None} for symbol, canonical in pairs]
    found = ranked(rows, text, limit)
    ranks = [rank(text, row["symbol"], row["canonical_symbol"]) for row in found.rows]
    assert ranks == sorted(one for one in ranks if one is not None)
    assert len(found.rows) == min(limit, found.matches)
    contained = [any(plain(text) in plain(name) for name in pair if name is not None) for pair in pairs]
    assert found.matches == sum(contained)
    assert found.known == len(pairs)
