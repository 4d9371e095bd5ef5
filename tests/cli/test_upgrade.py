"""A lake that an older K2 made: it has no instruments until `k2 init`, and loses nothing meanwhile."""

import json
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka.admin import AdminClient

from k2_dagster.cli import main
from k2_dagster.errors import NotInitialized
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.ingest.drain import drain_exchange
from k2_dagster.ingest.status import stream_statuses
from k2_dagster.kafka.clients import client_config
from k2_dagster.kafka.topics import describe
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.query.engine import QueryEngine
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings, as_environment
from tests.feeds.landing import Venue

pytestmark = pytest.mark.stack
GONE_SECONDS = 20.0


def as_before(lake: Venue) -> None:
    """Without the table and the topic that this version adds."""
    topic = topic_name("instruments", lake.name)
    admin = AdminClient(client_config(lake.settings))
    admin.delete_topics([topic])[topic].result(GONE_SECONDS)
    deadline = time.monotonic() + GONE_SECONDS
    while describe(lake.settings, [topic]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    catalog = open_catalog(lake.settings)
    catalog.drop_table("market_data.instruments")
    close_catalog(catalog)


def test_an_older_lake_gets_instruments_by_init_and_its_other_streams_go_on_before(
    settings: Settings, tmp_path: Path
) -> None:
    lake = Venue(settings, tmp_path, "sim_crypto")
    environment = as_environment(lake.settings)
    simulate = ("simulate", "--exchange", lake.name, "--symbols", "4", "--rate", "500", "--seconds", "2", "--flat-out")

    def k2(*arguments: str, status: int = 0) -> Any:
        result = CliRunner().invoke(main, [*arguments, "--json"], env=environment)
        assert result.exit_code == status, result.output
        return json.loads(result.stdout) if status == 0 else result.output

    k2(*simulate)
    as_before(lake)
    # What is there lands; what is missing is named, with what to do
    with pytest.raises(NotInitialized, match="instruments"):
        drain_exchange(lake.settings, lake.profiles, lake.name, cap_seconds=60.0, stop=threading.Event())
    assert len(lake.rows("ticks")) > 100
    found = stream_statuses(lake.settings, lake.profiles, [lake.name])
    states = {one.dataset: one.state for one in found}
    assert states["ticks"] == "ok"
    assert states["instruments"] == "not initialized"
    with (
        Publisher(lake.settings, lake.profiles, lake.name, publisher_session="new") as publisher,
        pytest.raises(NotInitialized, match=f"market.instruments.{lake.name}"),
    ):
        publisher.schema_id("ticks")
    assert "k2 init" in k2("symbols", status=4)
    made = {row["name"]: row["action"] for row in k2("init", "--exchange", lake.name)}
    assert made["market_data.instruments"] == made[f"market.instruments.{lake.name}"] == "created"
    assert made["market_data.ticks"] == "confirmed"
    k2(*simulate)
    lake.land()
    with closing(QueryEngine(lake.settings)) as engine:
        assert engine.query("FROM market_data.symbols").num_rows == 4
    assert len(k2("symbols", "usdt")) == 4
