"""`k2 query` on the session's stack, with tables of this test's own."""

import csv
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from k2_dagster.cli import main
from k2_dagster.cli.formats import TABLE_ROWS, write_table
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.lake.tables import ensure_tables
from k2_dagster.schemas.arrow import table_schema
from k2_dagster.schemas.datasets import TABLES
from k2_dagster.settings import Settings, as_environment
from tests.query.lake import START, filled, tick

pytestmark = pytest.mark.stack

SQL = "SELECT timestamp, symbol, price, conditions, date FROM market_data.ticks ORDER BY symbol"


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """The variables that lead `k2` to three ticks, one with brackets in its symbol."""
    catalog = open_catalog(settings)
    ensure_tables(catalog)
    rows = [tick("A[b]", conditions=["T", "I"]), tick("BB", price=Decimal("0.00000001")), tick("C,C")]
    arrow = pa.Table.from_pylist([filled("ticks", row) for row in rows], schema=table_schema(TABLES["ticks"]))
    catalog.load_table("market_data.ticks").append(arrow)
    close_catalog(catalog)
    return as_environment(settings)


def run(environment: dict[str, str], *arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(main, ["query", *arguments], env=environment, input=given)


def test_json_is_exact(environment: dict[str, str]) -> None:
    result = run(environment, SQL, "--format", "json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)[0] == {
        "timestamp": START.isoformat(),
        "symbol": "A[b]",
        "price": "1.50000000",
        "conditions": ["T", "I"],
        "date": "2026-03-01",
    }
    assert [row["price"] for row in json.loads(result.stdout)][1] == "0.00000001"


def test_csv_quotes_what_needs_it(environment: dict[str, str]) -> None:
    result = run(environment, "-", "--format", "csv", given=SQL)

    assert result.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert rows[1]["price"] == "0.00000001"
    assert rows[0::2] == [
        {
            "timestamp": "2026-03-01T12:00:00.000000Z",
            "symbol": "A[b]",
            "price": "1.50000000",
            "conditions": '["T", "I"]',
            "date": "2026-03-01",
        },
        {
            "timestamp": "2026-03-01T12:00:00.000000Z",
            "symbol": "C,C",
            "price": "1.50000000",
            "conditions": "",
            "date": "2026-03-01",
        },
    ]


def test_a_table_for_people(environment: dict[str, str]) -> None:
    result = run(environment, SQL)

    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[0].split() == ["timestamp", "symbol", "price", "conditions", "date"]
    assert "A[b]" in lines[1]
    assert len(lines) == 4


def test_parquet_into_a_file(environment: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "answer.parquet"

    result = run(environment, SQL, "--format", "parquet", "--output", str(target))

    assert result.exit_code == 0
    assert result.stderr == f"3 rows in {target}\n"
    assert pq.read_table(target)["price"].to_pylist()[1] == Decimal("0.00000001")
    assert list(tmp_path.glob(".*")) == []


def test_a_failure_leaves_no_half_file(environment: dict[str, str], tmp_path: Path) -> None:
    sql = "SELECT CASE WHEN i = 900000 THEN CAST('x' || i AS INTEGER) ELSE 1 END FROM range(1000000) t(i)"

    result = run(environment, sql, "--format", "csv", "--output", str(tmp_path / "answer.csv"))

    assert result.exit_code == 4
    assert "Could not convert" in result.stderr
    assert [path.name for path in tmp_path.iterdir() if "answer" in path.name] == []


def test_a_file_that_cannot_be_made_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    result = run(environment, SQL, "--output", str(tmp_path / "no" / "answer.csv"))

    assert (result.exit_code, "cannot be written: No such file" in result.stderr) == (4, True), result.output


def test_a_pipe_is_written_to_and_never_replaced(environment: dict[str, str], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        result = run(environment, SQL, "--format", "csv", "--output", str(pipe))

        assert result.exit_code == 0, result.output
        assert read.result().startswith('"timestamp"')
    assert pipe.is_fifo()


def test_json_may_be_asked_for_as_of_any_command(environment: dict[str, str]) -> None:
    assert run(environment, SQL, "--json").stdout == run(environment, SQL, "--format", "json").stdout


def test_explain_reads_nothing_and_says_what_would_be_read(environment: dict[str, str]) -> None:
    sql = "SELECT * FROM market_data.ticks WHERE date = '2026-03-02'"

    result = run(environment, sql, "--explain", "--format", "json")

    plan = json.loads(result.stdout)[0]
    assert (plan["table"], plan["files"], plan["of_files"], plan["rows"], plan["of_rows"]) == (
        "market_data.ticks",
        0,
        1,
        0,
        3,
    )
    assert "exchange_timestamp >= 2026-03-02" in plan["planned_by"]


def test_a_refused_query_is_one_message(environment: dict[str, str]) -> None:
    result = run(environment, "SELECT * FROM market_data.trades")

    assert result.exit_code == 4
    assert result.stderr.startswith("k2: there is no table market_data.trades\n  -> ")


def test_a_long_table_is_cut_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    batch = pa.RecordBatch.from_pydict({"n": range(TABLE_ROWS + 1)})
    output = io.BytesIO()

    shown = write_table(batch.schema, [batch], output)

    assert shown == TABLE_ROWS
    assert len(output.getvalue().splitlines()) == TABLE_ROWS + 1
    assert "only the first 1,000 rows" in capsys.readouterr().err
