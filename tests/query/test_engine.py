"""`QueryEngine` on real Iceberg tables."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from pyiceberg.types import IntegerType

from k2_dagster.errors import QueryRefused
from k2_dagster.lake.parquet import DataFiles, data_path
from k2_dagster.schemas.arrow import table_schema
from k2_dagster.schemas.datasets import TABLES, table_name
from tests.query.lake import START, Lake, add_position_deletes, tick

AS_THE_ISSUE_SAYS = (
    "SELECT timestamp, symbol, price, volume FROM market_data.ticks WHERE symbol = 'AAPL' "
    "AND timestamp >= NOW() - INTERVAL '1 hour' ORDER BY timestamp DESC LIMIT 1000"
)


def test_the_query_of_a_quant_works_as_written(fresh_lake: Lake) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    for minutes in (1, 30, 90):
        when = {"exchange_timestamp": now - timedelta(minutes=minutes), "price": Decimal(minutes)}
        fresh_lake.append("ticks", [tick("AAPL") | when, tick("MSFT") | when])

    answer = fresh_lake.engine().query(AS_THE_ISSUE_SAYS)

    assert answer.to_pylist() == [
        {
            "timestamp": now - timedelta(minutes=minutes),
            "symbol": "AAPL",
            "price": Decimal(minutes),
            "volume": Decimal("2.5"),
        }
        for minutes in (1, 30)
    ]


def test_an_empty_table_answers_with_its_columns(empty_lake: Lake) -> None:
    answer = empty_lake.engine().query(AS_THE_ISSUE_SAYS)

    assert answer.num_rows == 0
    assert answer.schema == pa.schema(
        {
            "timestamp": pa.timestamp("us", tz="UTC"),
            "symbol": pa.string(),
            "price": pa.decimal128(18, 8),
            "volume": pa.decimal128(28, 8),
        }
    )


def test_a_row_that_does_not_say_whose_clock_it_has_is_of_the_venues(empty_lake: Lake) -> None:
    # A file each: the statistics of the first know nothing of the venue
    for row in (
        tick("A"),
        tick("B", exchange_timestamp_source="venue"),
        tick("C", exchange_timestamp_source="receiver"),
    ):
        empty_lake.append("ticks", [row])
    ask = "SELECT symbol FROM market_data.ticks WHERE exchange_timestamp_source = '{}' ORDER BY 1"

    assert empty_lake.ask(ask.format("venue")) == [("A",), ("B",)]
    assert empty_lake.ask(ask.format("receiver")) == [("C",)]


@pytest.mark.parametrize("dataset", TABLES)
def test_every_table_has_its_declared_columns_and_a_time(dataset: str, empty_lake: Lake) -> None:
    expected = [field.name for field in TABLES[dataset].fields] + ["timestamp", "date"]
    before = empty_lake.engine().query(f"SELECT * FROM {table_name(dataset)}")
    empty_lake.append(dataset, [{}])

    after = empty_lake.engine().query(f"SELECT * FROM {table_name(dataset)}")

    assert before.schema == after.schema
    assert after.schema.names == expected + (["volume"] if dataset == "ticks" else [])
    assert after["timestamp"][0].as_py() == START
    assert after["date"][0].as_py() == START.date()


def test_levels_are_read_with_their_exact_prices(empty_lake: Lake) -> None:
    level = {"price": Decimal("0.00000001"), "size": Decimal("12345678901.5"), "orders": None}
    empty_lake.append("book", [{"bids": [level]}])

    assert empty_lake.ask("SELECT bids[1].price, bids[1].size, bids[1].orders, len(asks) FROM market_data.book") == [
        (level["price"], level["size"], None, 0)
    ]


def test_only_the_days_and_exchanges_asked_for_are_read(lake: Lake) -> None:
    plans = lake.engine().explain("SELECT * FROM market_data.ticks WHERE date = '2026-03-02' AND exchange = 'beta'")

    assert [(len(plan.files), plan.rows, plan.total_files, plan.total_rows) for plan in plans] == [(1, 3, 8, 24)]
    assert plans[0].size_bytes < plans[0].total_bytes


def test_a_day_is_the_utc_day(fresh_lake: Lake) -> None:
    midnight = datetime(2026, 3, 10, tzinfo=UTC)
    for offset in (-1, 0, 1):
        fresh_lake.append("ticks", [tick("ZM") | {"exchange_timestamp": midnight + timedelta(microseconds=offset)}])

    assert fresh_lake.ask("SELECT count(*) FROM market_data.ticks WHERE date = DATE '2026-03-10'") == [(2,)]
    assert fresh_lake.ask("SELECT DISTINCT date FROM market_data.ticks WHERE timestamp >= '2026-03-10'") == [
        (date(2026, 3, 10),)
    ]


def test_now_is_one_instant_for_planning_and_answer(fresh_lake: Lake) -> None:
    """Rows up to a second ahead of the clock: a plan that took now() earlier than the query would leave some out."""
    now = datetime.now(UTC)
    for milliseconds in range(0, 1000, 50):
        later = now + timedelta(milliseconds=milliseconds)
        fresh_lake.append("ticks", [tick("AHEAD") | {"exchange_timestamp": later}])

    rows = fresh_lake.ask(
        "SELECT timestamp <= now(), count(*) FROM market_data.ticks WHERE symbol = 'AHEAD' GROUP BY ALL"
    )
    found = fresh_lake.ask(
        "SELECT count(*), now() FROM market_data.ticks WHERE symbol = 'AHEAD' AND timestamp <= now()"
    )[0]

    assert sum(count for _, count in rows) == 20
    assert found[0] == sum(1 for step in range(20) if now + timedelta(milliseconds=50 * step) <= found[1])


def test_parameters_reach_planning_too(lake: Lake) -> None:
    sql = "SELECT count(*) FROM market_data.ticks WHERE symbol = $symbol AND timestamp >= $since"
    values = {"symbol": "MSFT", "since": START + timedelta(days=3)}

    assert lake.ask(sql, **values) == [(2,)]
    assert len(lake.engine().explain(sql, values)[0].files) == 2


def test_a_parameter_is_never_sql(lake: Lake) -> None:
    assert lake.ask("SELECT count(*) FROM market_data.ticks WHERE symbol = $symbol", symbol="' OR 1=1 --") == [(0,)]


@pytest.mark.parametrize(
    "sql",
    [
        "WITH x AS (FROM market_data.ticks WHERE symbol = 'ZM') SELECT (SELECT count(*) FROM market_data.ticks)",
        "SELECT count(*) FROM market_data.ticks t LEFT JOIN market_data.ticks u ON t.kafka_offset > u.kafka_offset "
        "WHERE u.symbol IS NULL",
        "SELECT count(*) FROM query('SELECT * FROM market_data.ticks')",
        "SELECT 24 FROM market_data.ticks WHERE symbol = 'AAPL' AND exchange = 'alpha' AND date = '2026-03-01' "
        "AND (SELECT count(*) FROM query_table('market_data.ticks')) = 24",
        "FROM market_data.ticks SELECT count(*)",
        "SELECT max(count) FROM (SUMMARIZE market_data.ticks)",
        "SELECT count(*) FROM market_data.TICKS AS t(symbol) WHERE symbol IN ('alpha', 'beta')",
        "SELECT count(*) FROM (SELECT 'AAPL' AS symbol FROM market_data.ticks) WHERE symbol = 'AAPL'",
        "SELECT count(*) FROM Market_Data.Ticks WHERE symbol = 'AAPL' OR price > 0",
        "SELECT count(*) FROM market_data.ticks WHERE NOT (symbol = 'nobody')",
    ],
)
def test_a_condition_that_does_not_bind_every_row_prunes_none(sql: str, lake: Lake) -> None:
    assert lake.ask(sql) == [(24,)]


def test_the_later_side_of_an_as_of_join_is_not_pruned(fresh_lake: Lake) -> None:
    """Pruning quotes by what the joined row must fulfil would let an older quote take its place."""
    for day, exchange in ((0, "good"), (1, "bad")):
        quote = {"exchange": exchange, "symbol": "AAPL", "exchange_timestamp": START + timedelta(days=day)}
        fresh_lake.append("quotes", [quote])
    sql = (
        "SELECT count(*) FROM market_data.ticks t ASOF JOIN market_data.quotes q "
        "ON t.symbol = q.symbol AND t.timestamp >= q.timestamp "
        "WHERE t.symbol = 'AAPL' AND t.date = '2026-03-03' AND q.exchange = 'good'"
    )

    assert fresh_lake.ask(sql) == [(0,)]
    assert {plan.table: len(plan.files) for plan in fresh_lake.engine().explain(sql)} == {
        "market_data.quotes": 2,
        "market_data.ticks": 2,
    }


def test_columns_added_later_are_null_in_older_files(fresh_lake: Lake) -> None:
    table = fresh_lake.catalog.load_table("market_data.ticks")
    with table.update_schema() as update:
        update.add_column("venue_flags", IntegerType())
        update.rename_column("channel", "lane")

    assert fresh_lake.ask("SELECT count(*), count(venue_flags), count(lane) FROM market_data.ticks") == [(24, 0, 0)]
    rows = table_schema(TABLES["ticks"]).names
    answer = fresh_lake.engine().query("SELECT * FROM market_data.ticks LIMIT 1")
    assert answer.schema.names == ["lane" if name == "channel" else name for name in rows] + [
        "venue_flags",
        "timestamp",
        "date",
        "volume",
    ]


def test_a_renamed_column_keeps_its_values(fresh_lake: Lake) -> None:
    table = fresh_lake.catalog.load_table("market_data.ticks")
    with table.update_schema() as update:
        update.rename_column("side", "aggressor")

    assert fresh_lake.ask("SELECT aggressor, count(*) FROM market_data.ticks GROUP BY ALL") == [("buy", 24)]


def test_files_of_our_own_layout_are_read(empty_lake: Lake) -> None:
    declared = TABLES["ticks"]
    table = empty_lake.catalog.load_table("market_data.ticks")
    empty_lake.append("ticks", [tick("AAPL", second=second) for second in range(3)])
    rows = table.refresh().scan().to_arrow().cast(table_schema(declared))
    path = data_path(table, "al[p]ha*", "2026-03-01", "it's")
    file = DataFiles(table, declared).write(rows, path)
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as append:
        append.append_data_file(file)

    assert empty_lake.ask("SELECT exchange, count(*), sum(price) FROM market_data.ticks GROUP BY ALL") == [
        ("alpha", 6, Decimal(9))
    ]


def test_delete_files_are_refused(fresh_lake: Lake) -> None:
    add_position_deletes(fresh_lake)

    with pytest.raises(QueryRefused, match="delete files") as caught:
        fresh_lake.ask("SELECT count(*) FROM market_data.ticks")

    assert "Rewrite the table" in caught.value.advice


def test_an_as_of_join_is_pruned_where_the_condition_stands_in_a_subquery(fresh_lake: Lake) -> None:
    for day in range(3):
        fresh_lake.append("quotes", [{"exchange": "alpha", "symbol": "AAPL", "exchange_timestamp": at(day)}])
    sql = (
        "SELECT t.exchange, q.timestamp FROM (FROM market_data.ticks WHERE symbol = 'AAPL' AND date = '2026-03-02') t "
        "ASOF JOIN (FROM market_data.quotes WHERE date BETWEEN '2026-03-01' AND '2026-03-02') q "
        "ON t.symbol = q.symbol AND t.timestamp >= q.timestamp ORDER BY ALL"
    )

    assert fresh_lake.ask(sql) == [("alpha", at(1)), ("beta", at(1))]
    assert [len(plan.files) for plan in fresh_lake.engine().explain(sql)] == [2, 2]


def at(day: int) -> datetime:
    return START + timedelta(days=day)
