"""docs/recovery.md, rehearsed: each case is brought about, shows the symptom, and is mended as the page says."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlparse

import pytest
from pydantic import SecretStr
from pyiceberg.catalog import Catalog
from sqlalchemy import create_engine, delete, make_url, text

from k2_dagster.cli.init import initialize
from k2_dagster.errors import FenceDisagrees, TableLost, TerminalError, TopicRecreated
from k2_dagster.ingest.losses import accept_losses
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.schemas.datasets import table_name
from k2_dagster.settings import Settings, as_environment
from k2_dagster.state.database import Database
from k2_dagster.state.tables import attempts
from k2_dagster.verify.proof import verify
from tests.dagster_support import Market, make_market
from tests.reference import REPOSITORY

# A drain leaves its registry client to the collector, which warns of the socket
pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]

TICKS = table_name("ticks")
PAGE = (REPOSITORY / "docs/recovery.md").read_text()


@pytest.fixture
def market(settings: Settings, tmp_path: Path) -> Iterator[Market]:
    """One exchange with two drains behind it."""
    made = make_market(settings, tmp_path)
    for seed in (1, 2):
        made.publish(made.exchange, 300, seed=seed)
        made.drain(made.exchange)
    yield made
    made.platform.close()


@pytest.fixture
def catalog(market: Market) -> Iterator[Catalog]:
    """The market's."""
    opened = open_catalog(market.settings)
    yield opened
    close_catalog(opened)


def section(title: str) -> str:
    """The page's text about one case."""
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def assert_lands_and_is_proven(market: Market, seed: int = 3) -> None:
    """New messages land, and topics and tables agree."""
    market.publish(market.exchange, 300, seed=seed)
    assert market.drain(market.exchange).caught_up
    assert list(verify(market.settings, None, [market.exchange]).findings()) == []


def test_a_rollback_is_undone_by_making_the_snapshot_current_again(
    market: Market, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = catalog.load_table(TICKS)
    first, newest = [snapshot.snapshot_id for snapshot in table.snapshots()]
    table.manage_snapshots().set_current_snapshot(snapshot_id=first).commit()
    with pytest.raises(FenceDisagrees, match=r"docs/recovery\.md, 'The fence disagrees'") as caught:
        market.drain(market.exchange)

    with Database(market.settings).begin() as connection:
        query = re.findall(r"`(SELECT snapshot_id.*?)`", section("The fence disagrees"))[0]
        commit_id = str(caught.value.fields["property_commit"])
        assert connection.execute(text(query.replace("'B'", ":id")), {"id": commit_id}).one().snapshot_id == newest
    for name, value in as_environment(market.settings).items():
        monkeypatch.setenv(name, value)
    (code,) = re.findall(r"```python\n(.*?)```", section("The fence disagrees"), re.DOTALL)
    exec(code.replace("1234567890", str(newest)))
    assert_lands_and_is_proven(market)


def test_a_rollback_whose_snapshot_is_gone_is_undone_by_registering_older_metadata(
    market: Market, catalog: Catalog
) -> None:
    table = catalog.load_table(TICKS)
    good = table.metadata_location
    first, newest = [snapshot.snapshot_id for snapshot in table.snapshots()]
    table.manage_snapshots().set_current_snapshot(snapshot_id=first).commit()
    table.maintenance.expire_snapshots().by_ids([newest]).commit()
    with pytest.raises(FenceDisagrees):
        market.drain(market.exchange)

    assert good in [entry.metadata_file for entry in catalog.load_table(TICKS).metadata.metadata_log]
    catalog.drop_table(TICKS)
    catalog.register_table(TICKS, good)
    assert_lands_and_is_proven(market)


def test_a_recreated_topic_goes_on_in_a_new_epoch(market: Market) -> None:
    topic = f"market.ticks.{market.exchange}"
    market.delete_topic(topic)
    initialize(market.settings, market.platform.profiles, (market.exchange,))
    with pytest.raises(TopicRecreated, match="accept-loss"):
        market.drain(market.exchange)

    lost = accept_losses(market.settings, market.exchange, "ticks", accepted_by="test", reason="rehearsal")
    assert {one["cause"] for one in lost} == {"topic_recreated"}
    assert_lands_and_is_proven(market)
    scan = open_catalog(market.settings).load_table(TICKS).scan(selected_fields=("topic_epoch",))
    assert set(scan.to_arrow()["topic_epoch"].to_pylist()) == {0, 1}


def test_a_restored_database_reads_again_what_it_has_forgotten(
    market: Market, fresh_database: Callable[[], str]
) -> None:
    market.platform.close()
    backup = copied(market.settings, fresh_database)
    market.publish(market.exchange, 300, seed=3)
    assert market.drain(market.exchange).rows

    restored = Market(
        market.settings.model_copy(update={"catalog_uri": SecretStr(backup)}), market.platform, market.exchanges
    )
    assert restored.drain(market.exchange).rows
    assert_lands_and_is_proven(restored, seed=4)


def test_a_catalog_that_is_older_than_the_kept_metadata_is_told(market: Market, catalog: Catalog) -> None:
    location = catalog.load_table(TICKS).metadata_location
    Path(urlparse(location).path).unlink()
    with pytest.raises(TableLost, match=r"\.metadata\.json"):
        market.drain(market.exchange)


def test_a_control_schema_that_is_older_than_the_table_is_told(market: Market) -> None:
    database = Database(market.settings)
    with closing(database), database.begin() as connection:
        connection.execute(delete(attempts))
    with pytest.raises(TerminalError, match="which the control database does not have"):
        market.drain(market.exchange)


def copied(settings: Settings, fresh_database: Callable[[], str]) -> str:
    """A copy of the control database as it is now, like a backup that is restored later."""
    uri = fresh_database()
    target, source = make_url(uri).database, make_url(settings.catalog_uri.get_secret_value()).database
    engine = create_engine(make_url(uri).set(database="postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {target}"))
        connection.execute(text(f"CREATE DATABASE {target} TEMPLATE {source}"))
    engine.dispose()
    return uri
