"""`k2 quarantine` on rows of a table of the test's own."""

import json
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from k2_dagster.cli import main
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.lake.tables import ensure_tables
from k2_dagster.schemas.arrow import table_schema
from k2_dagster.schemas.datasets import TABLES
from k2_dagster.settings import Settings, as_environment
from tests.query.lake import START, filled

pytestmark = pytest.mark.stack

TOPIC = "market.ticks.alpha"


def refused(epoch: int, offset: int, key: bytes) -> dict[str, Any]:
    return filled(
        "quarantine",
        {
            "exchange": "alpha", "dataset": "ticks", "topic": TOPIC, "topic_epoch": epoch, "kafka_partition": 0,
            "kafka_offset": offset, "kafka_timestamp": START, "reason": "not_framed", "detail": "x", "key": key,
            "value": b"\x1b[2J", "symbol": key.decode(errors="replace"), "headers": [],
        },
    )  # fmt: skip


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """Two messages at offset 7, of the topic before and after it was made anew, and one at 8."""
    catalog = open_catalog(settings)
    ensure_tables(catalog)
    rows = [refused(1, 7, b"second"), refused(0, 7, b"first"), refused(0, 8, b"\x1b[31mX")]
    arrow = pa.Table.from_pylist(rows, schema=table_schema(TABLES["quarantine"]))
    catalog.load_table("market_data.quarantine").append(arrow)
    close_catalog(catalog)
    return as_environment(settings)


def show(environment: dict[str, str], offset: int, *options: str) -> Result:
    return CliRunner().invoke(main, ["quarantine", "show", TOPIC, "0", str(offset), *options], env=environment)


def test_json_is_one_document_however_many_there_are(environment: dict[str, str]) -> None:
    assert json.loads(show(environment, 8, "--json").stdout)["topic_epoch"] == 0
    assert [one["topic_epoch"] for one in json.loads(show(environment, 7, "--json").stdout)] == [0, 1]
    text = show(environment, 7).stdout
    assert text.index("first") < text.index("second")


def test_a_hostile_key_cannot_steer_the_terminal(environment: dict[str, str]) -> None:
    listed = CliRunner().invoke(main, ["quarantine", "list"], env=environment).stdout
    shown = show(environment, 8).stdout
    for text in (listed, shown):
        assert r"\x1b[31mX" in text
        assert "\x1b" not in text
    assert "1b 5b 32 4a" in shown
