"""A warehouse on S3: files go through the local cache."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyiceberg.catalog.sql import SqlCatalog

from k2_dagster.devstack.s3 import BUCKET, S3Server
from k2_dagster.devstack.state import StackState, find_free_port
from k2_dagster.errors import WarehouseUnavailable
from k2_dagster.lake.catalog import catalog_properties
from k2_dagster.lake.tables import ensure_tables
from k2_dagster.settings import Settings
from tests.query.lake import Lake, tick

pytestmark = pytest.mark.stack


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    """A local S3 server of this test's own."""
    state = StackState(
        brokers=1,
        s3=True,
        cluster_id="",
        ports={"s3": find_free_port(set())},
        s3_program="moto",
        s3_access_key_id="key",
        s3_secret_access_key="secret-for-the-test",
    )
    part = S3Server(tmp_path, state)
    part.ensure(lambda _line: None)
    yield part
    found = part.find()
    if found is not None:
        found.kill()
        found.wait()


def test_files_are_fetched_once_and_then_read_locally(server: S3Server, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path / "home",
        warehouse=f"s3://{BUCKET}/warehouse",
        s3_endpoint=server.address,
        s3_access_key_id="key",
        s3_secret_access_key="secret-for-the-test",
        query_cache_megabytes=1,
    )
    catalog = SqlCatalog("k2", **catalog_properties(settings) | {"uri": f"sqlite:///{tmp_path}/catalog.db"})
    ensure_tables(catalog)
    lake = Lake(catalog, settings)
    for day in range(3):
        lake.append("ticks", [tick("AAPL", day=day), tick("MSFT", day=day)])
    count = "SELECT count(*), sum(price) FROM market_data.ticks WHERE date >= '2026-03-02'"
    entries = tmp_path / "home" / "cache" / "data-files" / "entries"

    first = lake.ask(count)
    assert len(list(entries.iterdir())) == 2
    for path in [task.file.file_path for task in catalog.load_table("market_data.ticks").scan().plan_files()]:
        catalog.load_table("market_data.ticks").io.delete(path)

    assert lake.ask(count) == first == [(4, 6)]
    with pytest.raises(WarehouseUnavailable):
        lake.ask("SELECT count(*) FROM market_data.ticks")
    catalog.close()
