"""Answers: streamed, refused, interrupted, side by side."""

from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from k2_dagster.errors import NotInitialized, QueryRefused, WarehouseUnavailable
from k2_dagster.query.answer import Interruption
from tests.query.lake import START, Lake


def test_streaming_gives_the_same_rows_in_batches(lake: Lake) -> None:
    sql = "SELECT symbol, sequence FROM market_data.ticks ORDER BY ALL"

    batches = list(lake.engine().stream(sql, batch_rows=10))

    assert len(batches) > 0
    assert all(isinstance(batch, pa.RecordBatch) for batch in batches)
    assert pa.Table.from_batches(batches) == lake.engine().query(sql).combine_chunks()


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("", "0 statements"),
        ("SELECT * FROM market_data.tick", "did you mean market_data.ticks"),
        ("SELECT * FROM ticks", "named with their schema"),
        ("SELECT prise FROM market_data.ticks", '"prise" not found'),
        ("SELECT * FROM market_data.ticks WHERE timestamp > 'yesterday-ish'", "yesterday-ish"),
        ("SELECT CAST(symbol AS INTEGER) FROM market_data.ticks", "Could not convert"),
        ("SELECT repeat('x', 1000000) || i AS s FROM range(2000) t(i) ORDER BY s", "Out of Memory"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(sql: str, message: str, lake: Lake) -> None:
    with pytest.raises(QueryRefused, match=message):
        lake.ask(sql)


def test_tables_that_are_not_there_are_told(empty_lake: Lake) -> None:
    empty_lake.catalog.drop_table("market_data.book")

    assert empty_lake.ask("SELECT count(*) FROM market_data.ticks") == [(0,)]
    with pytest.raises(NotInitialized, match="k2 init"):
        empty_lake.ask("SELECT count(*) FROM market_data.book")


def test_a_lost_file_is_not_an_empty_answer(fresh_lake: Lake) -> None:
    file = next(iter(fresh_lake.catalog.load_table("market_data.ticks").scan().plan_files())).file
    Path(file.file_path.removeprefix("file://")).unlink()

    with pytest.raises(WarehouseUnavailable):
        fresh_lake.ask("SELECT sum(price) FROM market_data.ticks")


def test_an_answer_can_be_interrupted(lake: Lake) -> None:
    endless = "SELECT * FROM range(1000000000000)"
    interruption = Interruption()
    with lake.engine().open(endless, interruption=interruption) as answer:
        batches = iter(answer)
        next(batches)
        interruption.stop()
        with pytest.raises(QueryRefused, match="Interrupted"):
            for _ in batches:
                pass


def test_a_query_that_has_no_rows_yet_can_be_interrupted(lake: Lake) -> None:
    interruption = Interruption()
    silent = "SELECT a.range FROM range(10000000) a, range(10000000) b WHERE a.range * b.range % 1000007 = -1"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lake.engine().open, silent, interruption=interruption)
        while not waiting.done():
            interruption.stop()
            wait([waiting], 0.05)

    with pytest.raises(QueryRefused, match=r"(?i)interrupted"):
        waiting.result()


def test_queries_do_not_see_each_other(lake: Lake) -> None:
    engine = lake.engine()
    engine.query("CREATE TABLE mine AS SELECT 1")

    with pytest.raises(QueryRefused, match="mine"):
        engine.query("SELECT * FROM mine")


def test_settings_reach_duckdb(lake: Lake) -> None:
    sql = "SELECT name, value FROM duckdb_settings() WHERE name IN ('TimeZone', 'threads', 'temp_directory')"

    assert dict(lake.ask(sql)) == {
        "TimeZone": "UTC",
        "threads": "2",
        "temp_directory": str(lake.settings.home / "cache" / "query-spill"),
    }


def test_threads_may_share_an_engine(lake: Lake) -> None:
    engine = lake.engine()

    def count(day: int) -> int:
        sql = "SELECT count(*) AS n FROM market_data.ticks WHERE date = $day"
        return int(engine.query(sql, {"day": (START + timedelta(days=day)).date()})["n"][0].as_py())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(count, list(range(-1, 5)) * 3)) == [0, 6, 6, 6, 6, 0] * 3
