"""What a long-running lake keeps: refusals that come and go, totals that follow the commits."""

from dataclasses import replace
from datetime import timedelta

import pytest
from alembic import command
from sqlalchemy import select, text

from k2_dagster.state import refused_schemas as refused_module
from k2_dagster.state.attempts import insert_attempt
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import _config, upgrade
from k2_dagster.state.refused_schemas import RefusedSchemas, refuse_schema, refused_schema_ids, withdraw_refusal
from k2_dagster.state.tables import SCHEMA, commits
from k2_dagster.state.totals import Totals, read_totals
from tests.state.test_state import STAMP, TABLE, attempt, land

pytestmark = pytest.mark.stack


def test_a_refusal_that_is_withdrawn_stays_on_record_and_may_be_made_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused_module, "REFRESH_SECONDS", 0.0)
    cached = RefusedSchemas(database)
    refuse_schema(database, 7, accepted_by="one", reason="unknown")
    assert cached.are(frozenset({7}))
    assert withdraw_refusal(database, 7, withdrawn_by="two", reason="registered by now")
    assert not withdraw_refusal(database, 7, withdrawn_by="three", reason="again")
    assert not withdraw_refusal(database, 8, withdrawn_by="three", reason="never refused")
    assert refused_schema_ids(database) == frozenset()
    assert cached.are(frozenset())
    assert not cached.are(frozenset({7}))
    with database.begin() as connection:
        found = connection.execute(text(f"select * from {SCHEMA}.refused_schemas")).mappings().one()
    assert (found["accepted_by"], found["withdrawn_by"], found["withdrawn_reason"]) == (
        "one",
        "two",
        "registered by now",
    )
    refuse_schema(database, 7, accepted_by="four", reason="not again")
    assert refused_schema_ids(database) == {7}


def test_totals_are_the_sums_of_the_commits(database: Database) -> None:
    for one in (attempt("a"), attempt("b", "a", start=10, end=25), replace(attempt("c"), exchange="y")):
        insert_attempt(database, replace(one, counts={"consumed": 12, "rows": 10, "quarantined": 2}))
    land(database, "a")
    land(database, "a", "b", "c")
    land(database, "b")
    found = read_totals(database, TABLE)
    last = {"x": STAMP + timedelta(seconds=1), "y": STAMP + timedelta(seconds=2)}
    assert found == {
        (TABLE, "x", "ticks"): Totals(2, 24, 20, 4, last["x"]),
        (TABLE, "y", "ticks"): Totals(1, 12, 10, 2, last["y"]),
    }
    assert read_totals(database, "market_data.book") == {}


def test_totals_of_an_older_control_schema_are_filled_in(database: Database) -> None:
    insert_attempt(database, attempt("a"))
    land(database, "a")
    with database.begin() as connection:
        command.downgrade(_config(connection), "0001")
    upgrade(database)
    with database.begin() as connection:
        stamp = connection.execute(select(commits.c.stamp)).scalar_one()
    assert read_totals(database) == {(TABLE, "x", "ticks"): Totals(1, 0, 10, 0, stamp)}
