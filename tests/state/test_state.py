"""The control database: migrations, attempts that land once, the gap ledger, and where topics begin."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, select, text

from k2_dagster.errors import DatabaseMismatch, NotInitialized, PartitionCountChanged, TerminalError
from k2_dagster.settings import Settings
from k2_dagster.state.attempts import Attempt, LandedCommit, Range, attempt_state, insert_attempt, settle, unsettled
from k2_dagster.state.database import Database
from k2_dagster.state.gaps import LedgerChange, open_gaps
from k2_dagster.state.ledger import Change
from k2_dagster.state.migrate import require_current, upgrade
from k2_dagster.state.positions import (
    AcceptedLoss,
    accept_losses,
    behind_losses,
    known_incarnations,
    pending_losses,
    read_baselines,
    record_baselines,
    topic_epoch,
)
from k2_dagster.state.refused_schemas import refuse_schema, refused_schema_ids
from k2_dagster.state.tables import SCHEMA, attempts, commits, metadata

pytestmark = pytest.mark.stack

TABLE = "market_data.ticks"
LOSS = AcceptedLoss(TABLE, "t", "id", 0, 10, 30, "retention_overrun", "a tester", "a test")
STAMP = datetime(2026, 1, 1, tzinfo=UTC)
GAP = LedgerChange(
    change="report",
    numbering="venue",
    stream="trade",
    kind="trade",
    session="",
    symbol="A",
    first_sequence=5,
    last_sequence=8,
    missing=4,
    filled=0,
    quarantined=0,
    level="warn",
    cause="unknown",
    topic_epoch=0,
    kafka_partition=0,
    opened_offset=9,
    reported_offset=12,
    event_day="2026-01-01",
)


def filled(first: int, last: int) -> LedgerChange:
    return replace(GAP, change="settle", last_sequence=last, filled=last - first + 1)


def explained(count: int) -> LedgerChange:
    return replace(GAP, change="settle", quarantined=count)


def attempt(name: str, previous: str | None = None, *changes: Change, start: int = 0, end: int = 10) -> Attempt:
    return Attempt(
        id=name,
        table_name=TABLE,
        exchange="x",
        dataset="ticks",
        previous_id=previous,
        ranges=[Range("t", "id", 0, 0, start, end, end - start, end - start, 0, "0" * 16, "0" * 16)],
        counts={"rows": end - start},
        days={},
        schema_ids=[],
        rules_version=1,
        run_id="",
        code_version="0",
        ledger=changes,
        state=name.encode(),
    )


def land(database: Database, *names: str) -> int:
    """Settle commits that landed a second after each other."""
    landed = [LandedCommit(name, at + 1, STAMP + timedelta(seconds=at)) for at, name in enumerate(names)]
    return settle(database, TABLE, landed)


def column(database: Database, wanted: Any) -> list[Any]:
    with database.begin() as connection:
        return list(connection.execute(select(wanted)).scalars())


def test_without_a_schema_everything_says_to_initialize(empty_database: Database) -> None:
    with pytest.raises(NotInitialized):
        require_current(empty_database)
    with pytest.raises(NotInitialized):
        unsettled(empty_database, ["a"])


def test_migrating_again_does_nothing(empty_database: Database) -> None:
    before, now = upgrade(empty_database)
    assert before is None
    assert upgrade(empty_database) == (now, now)
    require_current(empty_database)


def test_a_database_of_a_newer_version_is_told_as_such(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(text(f"update {SCHEMA}.alembic_version set version_num = '9999_of_tomorrow'"))
    for act in (upgrade, require_current):
        with pytest.raises(DatabaseMismatch, match="revision 9999_of_tomorrow, which this version of K2 does not know"):
            act(database)


def test_lost_tables_are_found_and_not_made_anew(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(text(f"drop table {SCHEMA}.gaps"))
    for act in (upgrade, require_current):
        with pytest.raises(DatabaseMismatch, match=r"lost tables: k2\.gaps"):
            act(database)


def test_two_may_migrate_at_once(empty_database: Database) -> None:
    count = 4
    barrier = Barrier(count)

    def migrate(_: int) -> tuple[str | None, str]:
        barrier.wait()
        return upgrade(empty_database)

    with ThreadPoolExecutor(count) as pool:
        outcomes = list(pool.map(migrate, range(count)))
    assert [before for before, _ in outcomes].count(None) == 1
    assert len({now for _, now in outcomes}) == 1


def test_the_migrations_make_the_declared_tables(database: Database) -> None:
    options = {
        "include_schemas": True,
        "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
        "include_object": lambda _, name, kind, *__: (kind, name) != ("table", "alembic_version"),
        "compare_type": True,
    }
    with database.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_two_that_see_a_topic_first_give_it_one_epoch(database: Database, settings: Settings) -> None:
    other = Database(settings)
    seen: list[int] = []

    def meanwhile(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "max(" in statement and not seen:
            seen.append(topic_epoch(other, "market.ticks.x", "id-1", 2))

    event.listen(database.engine, "before_cursor_execute", meanwhile)

    assert topic_epoch(database, "market.ticks.x", "id-1", 2) == 0
    assert seen == [0]
    other.close()


def test_landed_commits_are_settled_once_in_the_order_of_landing(database: Database) -> None:
    for one in (attempt("a"), attempt("b", "a", start=10, end=20)):
        insert_attempt(database, one)
    assert unsettled(database, ["b", "a"]) == ["b", "a"]
    assert land(database, "a", "b") == 2
    assert land(database, "a", "b") == 0
    assert column(database, commits.c.id) == ["a", "b"]
    assert unsettled(database, ["b", "a", "c"]) == ["c"]
    assert column(database, attempts.c.id) == ["b"]
    assert attempt_state(database, "b") == b"b"


def test_settling_at_the_same_moment_folds_once(database: Database) -> None:
    insert_attempt(database, attempt("a", None, GAP, filled(5, 5)))
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(lambda _: land(database, "a"), range(4))) == [0, 0, 0, 1]
    (gap,) = open_gaps(database, "ticks", "x")
    assert (gap["filled"], gap["state"]) == (1, "open")


def test_an_attempt_that_is_not_on_record_is_an_error_and_nothing_is_settled(database: Database) -> None:
    insert_attempt(database, attempt("a"))
    with pytest.raises(TerminalError, match="missing"):
        land(database, "a", "missing")
    assert column(database, commits.c.id) == []
    with pytest.raises(TerminalError):
        attempt_state(database, "missing")


def test_a_loser_leaves_no_gap(database: Database) -> None:
    insert_attempt(database, attempt("loser", None, GAP))
    insert_attempt(database, attempt("winner"))
    land(database, "winner")
    assert open_gaps(database, "ticks", "x") == []


def test_a_gap_is_filled_when_all_of_its_numbers_came(database: Database) -> None:
    insert_attempt(database, attempt("a", None, GAP, filled(6, 7)))
    insert_attempt(database, attempt("b", "a", filled(8, 8), start=10, end=20))
    insert_attempt(database, attempt("c", "b", filled(5, 5), start=20, end=30))
    found = []
    for name in "abc":
        land(database, name)
        (gap,) = open_gaps(database, "ticks", "x", "2026-01-01")
        found.append((gap["filled"], gap["state"], gap["commit_id"]))
    assert found == [(2, "open", "a"), (3, "open", "b"), (4, "filled", "c")]
    assert open_gaps(database, "ticks", "x", "2026-01-02") == []


def test_a_gap_is_explained_when_what_did_not_come_is_in_quarantine(database: Database) -> None:
    changes = (filled(5, 6), explained(2)), (filled(7, 7), explained(-1)), (filled(8, 8), explained(-1))
    found = []
    for at, (name, pair) in enumerate(zip("abc", changes, strict=True)):
        previous = "ab"[at - 1] if at else None
        first = (GAP, *pair) if name == "a" else pair
        insert_attempt(database, attempt(name, previous, *first, start=10 * at, end=10 * at + 10))
        land(database, name)
        (gap,) = open_gaps(database, "ticks", "x", "2026-01-01")
        found.append((gap["filled"], gap["quarantined"], gap["cause"], gap["state"]))
    assert found == [(2, 2, "quarantined", "open"), (3, 1, "quarantined", "open"), (4, 0, "unknown", "filled")]


def test_each_incarnation_of_a_topic_has_its_epoch(database: Database) -> None:
    assert topic_epoch(database, "t", "first", 4) == 0
    assert topic_epoch(database, "t", "second", 2) == 1
    assert topic_epoch(database, "t", "first", 4) == 0
    assert topic_epoch(database, "other", "third", 1) == 0
    assert known_incarnations(database, "t") == ["first", "second"]
    with pytest.raises(PartitionCountChanged):
        topic_epoch(database, "t", "first", 8)


def test_a_log_that_shrank_begins_an_epoch(database: Database) -> None:
    topic_epoch(database, "t", "id", 1)
    accept_losses(database, [LOSS], begins_epoch=True)
    assert topic_epoch(database, "t", "id", 1) == 1
    assert topic_epoch(database, "t", "next", 1) == 2


def test_the_first_baseline_stays(database: Database) -> None:
    record_baselines(database, TABLE, "id", {0: 5, 1: 0}, "first")
    record_baselines(database, TABLE, "id", {0: 9, 2: 7}, "again")
    assert read_baselines(database, TABLE, "id") == {0: 5, 1: 0, 2: 7}
    assert read_baselines(database, "market_data.book", "id") == {}


def test_an_accepted_loss_is_pending_until_a_commit_went_behind_it(database: Database) -> None:
    insert_attempt(database, attempt("before", None, start=30, end=40))
    land(database, "before")  # as from an earlier epoch: it does not settle a loss that was accepted later
    accept_losses(database, [LOSS], begins_epoch=False)
    accept_losses(database, [replace(LOSS, first_offset=30, next_offset=35)], begins_epoch=False)
    accept_losses(database, [replace(LOSS, partition=1)], begins_epoch=False)
    found = pending_losses(database)
    assert found == {(TABLE, "id", 0): [(10, 30), (30, 35)], (TABLE, "id", 1): [(10, 30)]}
    assert [behind_losses(found[TABLE, "id", 0], at) for at in (9, 10, 30)] == [9, 35, 35]
    insert_attempt(database, attempt("behind", "before", start=35, end=40))
    land(database, "behind")
    assert list(pending_losses(database)) == [(TABLE, "id", 1)]


def test_a_log_that_shrank_and_then_lost_its_beginning_leads_behind_both() -> None:
    assert behind_losses([(40, 10), (10, 15)], 40) == 15
    assert behind_losses([(10, 15), (15, 10)], 10) == 10


def test_a_refused_schema_keeps_its_first_record(database: Database) -> None:
    for who in ("one", "two"):
        refuse_schema(database, 2**31, accepted_by=who, reason="unknown")
    assert refused_schema_ids(database) == {2**31}
    with database.begin() as connection:
        found = connection.execute(text(f"select accepted_by from {SCHEMA}.refused_schemas")).scalars().all()
    assert found == ["one"]
