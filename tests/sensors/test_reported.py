"""Which commits may be merged is told from the cursor that Dagster has saved, never from one that it may not have."""

import dagster as dg
import pytest
from sqlalchemy import insert

from k2_dagster.schemas.datasets import TABLES, table_name
from k2_dagster.sensors.commits import commits_sensor
from k2_dagster.sensors.cursor import Cursor
from k2_dagster.sensors.reported import tell_reported
from k2_dagster.state.cursors import MIRROR, cursor_position
from k2_dagster.state.database import Database
from k2_dagster.state.tables import commits
from tests.dagster_support import Market

pytestmark = pytest.mark.stack

TICKS, BOOK = table_name("ticks"), table_name("book")


def told(database: Database) -> dict[str, int | None]:
    with database.begin() as connection:
        return {name: cursor_position(connection, MIRROR, table_name(name)) for name in TABLES}


def test_everything_read_is_done_but_for_what_waits(market: Market) -> None:
    database = market.platform.database
    nothing = dict.fromkeys(TABLES, 0)
    tell_reported(database, {TICKS: 9, BOOK: 7}, {("ticks", "x", "2026-01-01"): 5, ("ticks", "y", "2026-01-01"): 4})
    assert told(database) == {**nothing, "ticks": 3, "book": 7}
    tell_reported(database, {TICKS: 12, BOOK: 7}, {})
    assert told(database) == {**nothing, "ticks": 12, "book": 7}
    tell_reported(database, {}, {})
    assert told(database) == nothing


def test_a_tick_tells_what_its_saved_cursor_knew(market: Market, instance: dg.DagsterInstance) -> None:
    place = {"topic": "t", "topic_id": "t", "topic_epoch": 0, "partition": 0, "start": 0, "end": 9}
    row = {
        "id": "c1", "table_name": TICKS, "exchange": market.exchange, "dataset": "ticks", "snapshot_id": 1,
        "stamp": "2026-01-01T00:00:00Z", "ranges": [place], "days": {market.today: 1}, "schema_ids": [1],
        "counts": {"rows": 1}, "rules_version": 1, "run_id": "r", "code_version": "0", "commit_seconds": 0.1,
    }  # fmt: skip
    with market.platform.database.begin() as connection:
        connection.execute(insert(commits), row)
    tick(market, instance, None)
    assert told(market.platform.database)["ticks"] == 0
    waiting = Cursor({TICKS: 1}, {("ticks", market.exchange, "2999-01-01"): 1})
    tick(market, instance, waiting)
    assert told(market.platform.database)["ticks"] == 0
    tick(market, instance, Cursor({TICKS: 1}))
    assert told(market.platform.database)["ticks"] == 1


def tick(market: Market, instance: dg.DagsterInstance, saved: Cursor | None) -> None:
    stored = None if saved is None else saved.dump()
    commits_sensor(dg.build_sensor_context(instance=instance, cursor=stored, resources={"k2": market.platform}))
