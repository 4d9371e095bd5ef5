"""Old commits become one a minute, and nothing that rests on them changes."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select

from k2_dagster.state import thinning
from k2_dagster.state.cursors import MIRROR, set_cursors
from k2_dagster.state.database import Database
from k2_dagster.state.locks import try_lock
from k2_dagster.state.tables import commits
from k2_dagster.state.thinning import WHOLE_DAYS, thin_commits

pytestmark = pytest.mark.stack

TABLE, QUARANTINE = "market_data.ticks", "market_data.quarantine"
# A whole minute long after which everything is old, however long these tests take.
OLD = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(days=WHOLE_DAYS, hours=6)
YOUNG_SECONDS = timedelta(hours=12).total_seconds()


def add(database: Database, *seconds: float, exchange: str = "x", table: str = TABLE, **values: Any) -> None:
    """Commits of ten messages each, so many seconds after OLD, one after the other."""
    with database.begin() as connection:
        for at in seconds:
            mine = commits.c.table_name == table, commits.c.exchange == exchange
            ends = [one[-1]["end"] for one in connection.execute(select(commits.c.ranges).where(*mine)).scalars()]
            start = max(ends, default=0)
            one = {
                "topic": f"t.{exchange}", "topic_id": "id", "topic_epoch": 0, "partition": 0, "start": start,
                "end": start + 10, "consumed": 10, "rows": 9, "quarantined": 1, "digest": f"{start + 1:016x}",
                "quarantine_digest": "ffffffffffffffff",
            }  # fmt: skip
            known = {
                "id": f"{exchange}{start}", "table_name": table, "exchange": exchange, "dataset": "ticks",
                "snapshot_id": start, "stamp": OLD + timedelta(seconds=at), "ranges": [one],
                "counts": {"consumed": 10, "rows": 9, "quarantined": 1}, "days": {"2026-01-01": 9}, "schema_ids": [1],
                "rules_version": 1, "run_id": "", "code_version": "0", "commit_seconds": 0.1,
            }  # fmt: skip
            connection.execute(insert(commits), {**known, **values})


def left(database: Database, table: str = TABLE) -> list[tuple[str, int, int, int]]:
    """(id, first start, last end, rows) of each commit, by position."""
    query = select(commits).where(commits.c.table_name == table).order_by(commits.c.position)
    with database.begin() as connection:
        return [
            (one.id, one.ranges[0]["start"], one.ranges[-1]["end"], one.counts["rows"])
            for one in connection.execute(query)
        ]


def thin(database: Database, named: Sequence[str] = (), table: str = TABLE) -> int:
    return thin_commits(database, table, named)


def test_commits_of_a_stream_and_minute_become_the_last_of_them(database: Database) -> None:
    add(database, 1, 2, 59, 60, 61, 125)
    assert thin(database) == 3
    assert left(database) == [("x20", 0, 30, 27), ("x40", 30, 50, 18), ("x50", 50, 60, 9)]
    with database.begin() as connection:
        found = connection.execute(select(commits).where(commits.c.id == "x20")).mappings().one()
    assert found["stamp"] == OLD + timedelta(seconds=59)
    assert (found["snapshot_id"], found["position"]) == (20, 3)
    assert found["ranges"][0]["digest"] == f"{1 + 11 + 21:016x}"
    assert found["ranges"][0]["quarantine_digest"] == f"{2**64 - 3:016x}"
    assert found["days"] == {"2026-01-01": 27}
    assert thin(database) == 0


def test_streams_rules_and_versions_are_kept_apart(database: Database) -> None:
    add(database, 1)
    add(database, 1, exchange="y")
    add(database, 2)
    add(database, 2, exchange="y")
    add(database, 3, rules_version=2)
    add(database, 4, rules_version=2, code_version="1")
    assert thin(database) == 2
    assert left(database) == [("x10", 0, 20, 18), ("y10", 0, 20, 18), ("x20", 20, 30, 9), ("x30", 30, 40, 9)]


def test_only_neighbours_of_the_same_days_become_one(database: Database) -> None:
    """A reported day must not come again with the position of another day's commit."""
    both = {"2026-01-01": 4, "2026-01-02": 5}
    add(database, 1, 2)
    add(database, 3, 4, days=both)
    add(database, 5)
    assert thin(database) == 2
    assert left(database) == [("x10", 0, 20, 18), ("x30", 20, 40, 18), ("x40", 40, 50, 9)]


def test_what_is_not_old_and_what_the_lineage_names_is_left_alone(database: Database) -> None:
    add(database, 1, 2, 61, 62, 63)
    add(database, *(YOUNG_SECONDS + at for at in (1, 2)))
    young = datetime.now(UTC) - OLD
    add(database, *(young.total_seconds() - at for at in (3, 2, 1)))
    before = left(database)
    assert thin(database, [before[0][0]]) == 0
    # the minute of what is named stays whole, so that it can become one commit later
    assert thin(database, [before[3][0]]) == 1
    assert left(database)[1:] == before[2:]
    assert thin(database) == 2
    assert left(database)[2:] == before[5:]


def test_what_the_mirror_has_not_reported_is_left_alone_and_caught_up_with_later(database: Database) -> None:
    add(database, 1, 2, 61, 62, 63, 121, 122)
    set_cursors(database, MIRROR, {TABLE: 4})
    assert thin(database) == 1
    assert [one[0] for one in left(database)] == ["x10", "x20", "x30", "x40", "x50", "x60"]
    set_cursors(database, MIRROR, {TABLE: 3})  # a cursor that Dagster lost begins anew
    assert thin(database) == 0
    set_cursors(database, MIRROR, {TABLE: 7, "market_data.book": 0})
    assert thin(database) == 2
    assert [one[0] for one in left(database)] == ["x10", "x40", "x50", "x60"]


def test_a_long_history_is_thinned_in_batches(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinning, "BATCH_COMMITS", 7)
    add(database, *range(0, 240, 10))
    gone = [thin(database) for _ in range(8)]
    assert gone[-1] == 0
    assert max(gone) <= 7
    assert [(one[1], one[2]) for one in left(database)] == [(0, 60), (60, 120), (120, 180), (180, 240)]


def test_more_in_a_minute_than_in_a_batch_is_thinned_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinning, "BATCH_COMMITS", 4)
    add(database, *range(10))
    add(database, 70)
    assert sum(thin(database) for _ in range(6)) >= 6
    assert [one[3] for one in left(database)][-1] == 9
    assert sum(one[3] for one in left(database)) == 99


def test_quarantine_becomes_its_hull(database: Database) -> None:
    add(database, 1, 2, table=QUARANTINE)
    with database.begin() as connection:
        (row,) = connection.execute(select(commits).where(commits.c.id == "x10")).mappings()
        moved = [{**row["ranges"][0], "start": 500, "end": 510}]
        connection.execute(commits.update().where(commits.c.id == "x10").values(ranges=moved))
    assert thin(database, table=QUARANTINE) == 1
    assert left(database, QUARANTINE) == [("x10", 0, 510, 18)]


def test_two_at_once_are_no_harm(database: Database) -> None:
    add(database, 1, 2)
    with database.begin() as connection:
        assert try_lock(connection, f"k2:thin:{TABLE}")
        assert thin(database) == 0
    assert thin(database) == 1
