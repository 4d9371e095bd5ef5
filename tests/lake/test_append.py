"""The fenced append against real PostgreSQL and real files: zombies, lost answers, rollbacks."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pytest
from pyiceberg.table import Table
from sqlalchemy import text

from k2_dagster.errors import CommitUnknown, DatabaseUnavailable, FenceDisagrees, FenceMoved
from k2_dagster.lake import append as append_module
from k2_dagster.lake.append import Append
from k2_dagster.lake.catalog import load_table
from k2_dagster.lake.expiry import EXPIRY_SLACK, expire_snapshots
from k2_dagster.lake.fence import FENCE_KEY, ingest_lineage, read_fence
from k2_dagster.lake.settle import settle_lineage
from k2_dagster.observability import points
from k2_dagster.state.attempts import unsettled
from k2_dagster.state.database import Database
from tests.lake.conftest import TABLE, Lake

pytestmark = pytest.mark.stack

FIRST = {"x:0": None, "x:1": None}


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    points.arm(None)


def commit(lake: Lake, exchange: str = "a", rows: int = 2, **moves: tuple[int | None, int]) -> Append:
    """Append, `x_0=(None, 5)` moves the position x:0 from nothing to 5."""
    keys = {name.replace("_", ":"): move for name, move in moves.items()}
    prepared = lake.prepare(
        exchange, {key: start for key, (start, _) in keys.items()}, {key: end for key, (_, end) in keys.items()}, rows
    )
    lake.append(prepared)
    return prepared


def head(lake: Lake) -> Table:
    return load_table(lake.catalog, TABLE)


def test_what_a_commit_says_is_what_the_next_one_reads(lake: Lake) -> None:
    empty = read_fence(head(lake).metadata)
    assert (empty.vector, empty.commit_id, empty.heads) == ({}, None, {})
    first = commit(lake, x_0=(None, 5), x_1=(None, 7))
    second = commit(lake, "b", y_0=(None, 3))
    fence = read_fence(head(lake).metadata)
    assert fence.vector == {"x:0": 5, "x:1": 7, "y:0": 3}
    assert fence.heads == {"a/control": first.commit_id, "b/control": second.commit_id}
    assert fence.commit_id == second.commit_id
    landed = list(ingest_lineage(head(lake).metadata))
    assert [one.commit_id for one in landed] == [second.commit_id, first.commit_id]
    assert landed[0].stamp > landed[1].stamp
    assert lake.rows() == 4


def test_an_append_without_files_moves_the_fence(lake: Lake) -> None:
    commit(lake, rows=0, x_0=(None, 9))
    assert read_fence(head(lake).metadata).vector == {"x:0": 9}
    assert lake.rows() == 0


@pytest.mark.parametrize("zombie_first", [True, False])
def test_two_writers_on_one_range_land_once(lake: Lake, other: Lake, zombie_first: bool) -> None:
    mine, theirs = (one.prepare("a", FIRST, {"x:0": 5}) for one in (lake, other))
    order = [(other, theirs), (lake, mine)] if zombie_first else [(lake, mine), (other, theirs)]
    order[0][0].append(order[0][1])
    with pytest.raises(FenceMoved) as refused:
        order[1][0].append(order[1][1])
    assert refused.value.fields["moved"] == ["x:0"]
    assert lake.rows() == 2
    assert read_fence(head(lake).metadata).commit_id == order[0][1].commit_id


def test_two_writers_at_the_same_moment_land_once(lake: Lake, other: Lake) -> None:
    appends = [(one, one.prepare("a", FIRST, {"x:0": 5})) for one in (lake, other)]
    outcomes: list[str] = []

    def run(writer: Lake, prepared: Append) -> None:
        try:
            writer.append(prepared)
            outcomes.append("landed")
        except FenceMoved:
            outcomes.append("moved")

    threads = [threading.Thread(target=run, args=one) for one in appends]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(outcomes) == ["landed", "moved"]
    assert lake.rows() == 2


def test_writers_of_different_exchanges_all_land(lake: Lake, other: Lake) -> None:
    def run(writer: Lake, exchange: str) -> None:
        for at in range(5):
            move = {f"{exchange}_0": (2 * at or None, 2 * at + 2)}
            commit(writer, exchange, 2, **move)

    threads = [threading.Thread(target=run, args=one) for one in ((lake, "a"), (other, "b"))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert read_fence(head(lake).metadata).vector == {"a:0": 10, "b:0": 10}
    assert lake.rows() == 20
    stamps = [one.stamp for one in ingest_lineage(head(lake).metadata)]
    assert stamps == sorted(set(stamps), reverse=True)


def cut_connections(lake: Lake) -> None:
    """End every other connection to this test's database, as a network does."""
    with lake.database.engine.connect() as connection:
        connection.execute(
            text(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
        )


def test_a_commit_whose_answer_was_lost_is_found_and_not_made_again(lake: Lake, other: Lake) -> None:
    prepared = lake.prepare("a", FIRST, {"x:0": 5})
    points.arm(lambda point: cut_connections(other) if point == "commit.landed" else None)
    landed = lake.append(prepared)
    assert landed.snapshot_id == head(lake).metadata.current_snapshot_id
    assert len(head(lake).metadata.snapshots) == 1
    assert lake.rows() == 2


def test_a_commit_that_was_cut_before_it_landed_says_so_and_may_be_made_again(
    lake: Lake, other: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = lake.prepare("a", FIRST, {"x:0": 5})
    commit_table = lake.catalog.commit_table

    def cut(*args: object, **named: object) -> object:
        cut_connections(other)
        raise DatabaseUnavailable("the connection broke before anything was sent")

    monkeypatch.setattr(lake.catalog, "commit_table", cut)
    with pytest.raises(DatabaseUnavailable):
        lake.append(prepared)
    monkeypatch.setattr(lake.catalog, "commit_table", commit_table)
    assert lake.append(prepared).tries == 1
    assert lake.rows() == 2


def test_the_same_append_twice_is_one_commit(lake: Lake) -> None:
    prepared = lake.prepare("a", FIRST, {"x:0": 5})
    assert lake.append(prepared).snapshot_id == lake.append(prepared).snapshot_id
    assert lake.rows() == 2


def test_a_rolled_back_table_is_not_written_to(lake: Lake) -> None:
    commit(lake, x_0=(None, 5))
    first = head(lake).metadata.current_snapshot_id
    commit(lake, x_0=(5, 8))
    assert first is not None
    head(lake).manage_snapshots().rollback_to_snapshot(first).commit()
    with pytest.raises(FenceDisagrees) as refused:
        commit(lake, x_0=(5, 8))
    assert refused.value.fields["snapshot_commit"] != refused.value.fields["property_commit"]


def test_a_foreign_property_is_not_believed(lake: Lake) -> None:
    commit(lake, x_0=(None, 5))
    with head(lake).transaction() as transaction:
        transaction.set_properties({FENCE_KEY: '{"commit_id":"other","vector":{"x:0":99},"heads":{}}'})
    with pytest.raises(FenceDisagrees):
        commit(lake, x_0=(99, 100))


def test_when_every_snapshot_of_ours_is_expired_the_property_says_where_we_are(lake: Lake) -> None:
    mine = commit(lake, x_0=(None, 5))
    table = head(lake)
    table.append(table.scan().to_arrow().slice(0, 0))  # another engine's commit, without our keys
    old = head(lake).metadata.snapshots[0].snapshot_id
    head(lake).maintenance.expire_snapshots().by_id(old).commit()
    fence = read_fence(head(lake).metadata)
    assert (fence.vector, fence.heads, fence.snapshot_id) == ({"x:0": 5}, {"a/control": mine.commit_id}, None)
    commit(lake, x_0=(5, 6))
    assert read_fence(head(lake).metadata).vector == {"x:0": 6}


def test_expiry_keeps_what_is_not_settled_and_the_newest(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k2_dagster.lake.expiry.EXPIRY_SLACK", 1)
    assert EXPIRY_SLACK > 1
    commits = [commit(lake, rows=0, x_0=(at or None, at + 1)) for at in range(6)]
    assert settle_lineage(lake.database, TABLE, head(lake).metadata) == 6
    late = commit(lake, rows=0, x_0=(6, 7))
    for at in range(7, 10):
        newest = commit(lake, rows=0, x_0=(at, at + 1))
        settle_lineage(lake.database, TABLE, head(lake).metadata)
    assert unsettled(lake.database, [late.commit_id]) == []
    assert expire_snapshots(lake.catalog, lake.database, TABLE, keep=2) == 8
    kept = [one.commit_id for one in ingest_lineage(head(lake).metadata)]
    assert len(kept) == 2
    assert kept[0] == newest.commit_id
    assert commits[0].commit_id not in kept
    assert expire_snapshots(lake.catalog, lake.database, TABLE, keep=2) == 0


def test_a_commit_that_nobody_settled_outlives_expiry_within_reach_of_the_lineage(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that died after its commit is idle; another exchange goes on and expires."""
    monkeypatch.setattr("k2_dagster.lake.expiry.EXPIRY_SLACK", 1)
    orphan = commit(lake, "dead", rows=0, z_0=(None, 1))
    for at in range(6):
        prepared = lake.prepare("a", {"x:0": at or None}, {"x:0": at + 1}, rows=0)
        lake.settle(prepared, lake.append(prepared))
    expire_snapshots(lake.catalog, lake.database, TABLE, keep=2)
    settle_lineage(lake.database, TABLE, head(lake).metadata)
    assert unsettled(lake.database, [orphan.commit_id]) == []


def test_losing_race_after_race_gives_up_without_a_commit(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = lake.prepare("a", FIRST, {"x:0": 5})
    stale = head(lake)
    commit(lake, "b", y_0=(None, 1))
    monkeypatch.setattr(append_module, "load_table", lambda *_: replace_table(stale))
    with pytest.raises(CommitUnknown):
        lake.append(prepared)
    monkeypatch.undo()
    assert lake.rows() == 2
    assert read_fence(head(lake).metadata).vector == {"y:0": 1}


def replace_table(table: Table) -> Table:
    """A table object that does not know of later commits."""
    return Table(table.name(), table.metadata, table.metadata_location, table.io, table.catalog)


def test_a_stop_ends_the_search_for_an_outcome(lake: Lake) -> None:
    """The answer is lost and the table cannot be read back: the next process looks for the commit instead."""
    stop = threading.Event()
    stopped = Lake(lake.settings, lake.catalog, Database(lake.settings, stop))
    prepared = lake.prepare("a", FIRST, {"x:0": 5})

    def lose(point: str) -> None:
        if point == "commit.landed":
            location = Path(urlparse(head(lake).metadata_location).path)
            location.rename(f"{location}.away")
            location.mkdir()  # storage that does not answer; a file that is gone would be another matter
            stop.set()
            raise DatabaseUnavailable("the answer was lost")

    points.arm(lose)
    began = time.monotonic()
    with pytest.raises(CommitUnknown):
        stopped.append(prepared)
    assert time.monotonic() - began < append_module.OUTCOME_DEADLINE_SECONDS / 4
    stopped.database.close()
