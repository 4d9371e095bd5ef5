"""Pruning never changes an answer: the same rows as from every file, whatever the condition."""

from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.expressions import AlwaysTrue

from k2_dagster.query.constants import Constants, syntax_tree
from k2_dagster.query.filters import file_filters, is_transparent, mentioned_tables
from k2_dagster.query.predicates import Column, filter_text
from tests.query.lake import START, Lake

COLUMNS = {
    "ticks": {
        "symbol": Column("symbol", "text"),
        "exchange": Column("exchange", "text"),
        "timestamp": Column("exchange_timestamp", "time"),
        "date": Column("exchange_timestamp", "day"),
    }
}

texts = st.sampled_from(["'AAPL'", "'MSFT'", "'ZM'", "'alpha'", "'beta'", "''", "'~'", "NULL", "upper('zm')"])
text_columns = st.sampled_from(["symbol", "exchange", "session", "t.symbol", "T.Exchange"])
instants = st.integers(-1, 5).flatmap(
    lambda day: st.sampled_from([0, 1, 2, 43_200]).map(lambda second: START + timedelta(days=day, seconds=second))
)
times = instants.flatmap(
    lambda when: st.sampled_from(
        [
            f"'{when:%Y-%m-%d %H:%M:%S}'",
            f"TIMESTAMP '{when:%Y-%m-%d %H:%M:%S}'",
            f"TIMESTAMPTZ '{when:%Y-%m-%d %H:%M:%S}+00'",
            f"TIMESTAMPTZ '{when:%Y-%m-%d %H:%M:%S}-05'",
            f"DATE '{when:%Y-%m-%d}'",
            f"(DATE '{when:%Y-%m-%d}' + INTERVAL 1 DAY)",
            f"date_trunc('day', TIMESTAMPTZ '{when:%Y-%m-%d %H:%M:%S}+00')",
            "NULL",
            "'infinity'",
            "now()",
        ]
    )
)
days = instants.flatmap(lambda when: st.sampled_from([f"'{when:%Y-%m-%d}'", f"DATE '{when:%Y-%m-%d}'", "current_date"]))
operators = st.sampled_from(["=", "<", "<=", ">", ">=", "!=", "IS DISTINCT FROM"])
atoms = st.one_of(
    st.builds("{} {} {}".format, text_columns, operators, texts),
    st.builds("{} {} {}".format, texts, operators, text_columns),
    st.builds("{} IN ({}, {})".format, text_columns, texts, texts),
    st.builds("{} NOT IN ({}, {})".format, text_columns, texts, texts),
    st.builds("{} IS NULL".format, text_columns),
    st.builds("timestamp {} {}".format, operators, times),
    st.builds("{} {} t.exchange_timestamp".format, times, operators),
    st.builds("timestamp BETWEEN {} AND {}".format, times, times),
    st.builds("date {} {}".format, operators, days),
    st.builds("CAST(timestamp AS DATE) {} {}".format, operators, days),
    st.builds("date IN ({}, {})".format, days, days),
    st.sampled_from(["price > 1", "sequence = 1", "true", "false", "NULL"]),
)
conditions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds("({} AND {})".format, inner, inner),
        st.builds("({} OR {})".format, inner, inner),
        st.builds("NOT ({})".format, inner),
    ),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(condition=conditions)
def test_pruning_equals_brute_force(condition: str, lake: Lake) -> None:
    engine = lake.engine()
    rows = "SELECT exchange, symbol, timestamp FROM"
    pruned = engine.query(f"{rows} market_data.ticks t WHERE {condition} ORDER BY ALL")

    # Through query(), the statement's tables are not in its syntax tree, so nothing is pruned
    every = f"{rows} query('SELECT * FROM market_data.ticks') t WHERE {condition} ORDER BY ALL"
    assert engine.explain(every)[0].rows == 24
    assert pruned.equals(engine.query(every)), condition


def filter_of(condition: str, source: str = "market_data.ticks", **parameters: Any) -> str:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        tree = syntax_tree(connection, f"SELECT * FROM {source} WHERE {condition}")
        filters = file_filters(tree, COLUMNS, Constants(connection, parameters).evaluate)
    return filter_text(filters["ticks"])


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("symbol = 'A' AND price > 3", "symbol = 'A'"),
        ("'A' = symbol", "symbol = 'A'"),
        ("'A' < symbol", "symbol > 'A'"),
        ("symbol IN ('A', 'B')", "symbol in ['A', 'B']"),
        ("symbol = 'A' OR exchange = 'B'", "(symbol = 'A' or exchange = 'B')"),
        ("date = '2026-03-01'", "exchange_timestamp >= 2026-03-01T00:00:00.000000Z "
         "and exchange_timestamp < 2026-03-02T00:00:00.000000Z"),
        ("date > DATE '2026-03-01'", "exchange_timestamp >= 2026-03-02T00:00:00.000000Z"),
        ("timestamp > TIMESTAMPTZ '2026-03-01 00:00-05'", "exchange_timestamp > 2026-03-01T05:00:00.000000Z"),
        ("timestamp::DATE < '2026-03-01'", "exchange_timestamp < 2026-03-01T00:00:00.000000Z"),
        # Not understood, so every file is read
        ("symbol = 'A' OR price > 3", ""),
        ("NOT symbol = 'A'", ""),
        ("symbol = NULL", ""),
        ("symbol = lower('A')", ""),
        ("symbol || 'x' = 'Ax'", ""),
        ("timestamp > now() + to_days(CAST(random() AS INTEGER))", ""),
        ("timestamp > (SELECT TIMESTAMP '2026-03-01')", ""),
        ("date >= TIMESTAMP '2026-03-01 12:00'", ""),
        ("other.symbol = 'A'", ""),
        ("symbol.name = 'A'", ""),
    ],
)  # fmt: skip
def test_what_is_understood(condition: str, expected: str) -> None:
    assert filter_of(condition) == expected


def test_typed_parameters_are_understood() -> None:
    since = datetime(2026, 3, 1, tzinfo=UTC)

    assert filter_of("symbol = $s", s="A") == "symbol = 'A'"
    assert filter_of("timestamp >= $t", t=since) == "exchange_timestamp >= 2026-03-01T00:00:00.000000Z"
    # How DuckDB would compare a text that is no literal is not ours to guess
    assert filter_of("timestamp >= $t", t="2026-03-01") == ""


@pytest.mark.parametrize(
    ("source", "prunes"),
    [
        ("market_data.ticks t JOIN other o USING (symbol)", True),
        ("other o JOIN market_data.ticks t USING (symbol)", True),
        ("market_data.ticks t LEFT JOIN other o USING (symbol)", True),
        ("other o LEFT JOIN market_data.ticks t USING (symbol)", False),
        ("market_data.ticks t FULL JOIN other o USING (symbol)", False),
        ("market_data.ticks t RIGHT JOIN other o USING (symbol)", False),
        ("market_data.ticks t ASOF JOIN other o ON t.time >= o.time", True),
        ("other o ASOF JOIN market_data.ticks t ON t.time >= o.time", False),
        ("market_data.ticks t POSITIONAL JOIN other o", False),
        ("market_data.ticks t TABLESAMPLE 10 PERCENT", False),
        ("market_data.ticks AS t(symbol)", False),
        ("market_data.ticks t, query('SELECT 1') q", False),
    ],
)
def test_only_where_the_condition_judges_each_row(source: str, prunes: bool) -> None:
    assert filter_of("t.symbol = 'A'", source) == ("symbol = 'A'" if prunes else "")


def test_a_bare_name_is_not_understood_beside_another_table() -> None:
    assert filter_of("symbol = 'A'", "market_data.ticks t, other o") == ""


def test_every_mention_must_allow_it() -> None:
    with duckdb.connect() as connection:
        tree = syntax_tree(
            connection,
            "SELECT * FROM market_data.ticks WHERE symbol = 'A' UNION ALL "
            "SELECT * FROM market_data.ticks WHERE symbol = 'B' AND EXISTS (FROM market_data.quotes)",
        )
        filters = file_filters(tree, COLUMNS, Constants(connection, {}).evaluate)

    assert mentioned_tables(tree) == ["quotes", "ticks"]
    assert filter_text(filters["ticks"]) == "(symbol = 'A' or symbol = 'B')"
    assert filters["quotes"] == AlwaysTrue()


def test_statements_that_are_not_select_are_not_transparent() -> None:
    with duckdb.connect() as connection:
        assert not is_transparent(syntax_tree(connection, "CREATE TABLE x AS FROM market_data.ticks"))
        assert is_transparent(syntax_tree(connection, "FROM market_data.ticks"))
