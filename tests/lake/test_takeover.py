"""Rules in the table: who has newer ones takes the stream over, and what an older writer has in hand does not land."""

from dataclasses import replace

import pytest

from k2_dagster.errors import FenceMoved, RulesDiffer
from k2_dagster.lake.catalog import load_table
from k2_dagster.lake.fence import read_fence
from k2_dagster.lake.takeover import take_over
from tests.lake.conftest import RULES, TABLE, Lake

pytestmark = pytest.mark.stack

STREAM = "a/control"
NEWER = replace(RULES, version=RULES.version + 1, profile="another")


def test_the_first_writer_tells_its_rules_and_the_next_finds_them(lake: Lake, other: Lake) -> None:
    table = take_over(lake.catalog, lake.database, TABLE, STREAM, RULES)
    assert read_fence(table.metadata).rules == {STREAM: RULES}
    assert table.metadata.current_snapshot() is None
    told = load_table(lake.catalog, TABLE).metadata_location
    take_over(other.catalog, other.database, TABLE, STREAM, RULES)
    assert load_table(lake.catalog, TABLE).metadata_location == told


def test_what_was_judged_by_older_rules_does_not_land(lake: Lake, other: Lake) -> None:
    take_over(lake.catalog, lake.database, TABLE, STREAM, RULES)
    first = lake.prepare("a", {"x:0": None}, {"x:0": 5})
    lake.settle(first, lake.append(first))
    late = lake.prepare("a", {"x:0": 5}, {"x:0": 9})
    take_over(other.catalog, other.database, TABLE, STREAM, NEWER)
    with pytest.raises(FenceMoved, match="other rules"):
        lake.append(late)
    fence = read_fence(load_table(lake.catalog, TABLE).metadata)
    assert (fence.vector, fence.commit_id, fence.rules) == ({"x:0": 5}, first.commit_id, {STREAM: NEWER})
    assert lake.rows() == 2


def test_other_streams_of_the_table_go_on(lake: Lake) -> None:
    take_over(lake.catalog, lake.database, TABLE, "b/control", NEWER)
    prepared = lake.prepare("a", {"x:0": None}, {"x:0": 5})
    lake.settle(prepared, lake.append(prepared))
    assert read_fence(load_table(lake.catalog, TABLE).metadata).rules == {"b/control": NEWER, STREAM: RULES}


def test_a_writer_with_older_rules_is_told_that_it_is_over(lake: Lake) -> None:
    take_over(lake.catalog, lake.database, TABLE, STREAM, NEWER)
    with pytest.raises(RulesDiffer, match=f"version {NEWER.version}, this process has {RULES.version}"):
        take_over(lake.catalog, lake.database, TABLE, STREAM, RULES)


def test_a_profile_that_changed_under_the_same_version_is_refused(lake: Lake) -> None:
    take_over(lake.catalog, lake.database, TABLE, STREAM, RULES)
    with pytest.raises(RulesDiffer, match="same rules version"):
        take_over(lake.catalog, lake.database, TABLE, STREAM, replace(RULES, profile="another"))


def test_a_refused_schema_takes_the_stream_over(lake: Lake) -> None:
    take_over(lake.catalog, lake.database, TABLE, STREAM, RULES)
    with_refusal = replace(RULES, refused="some")
    take_over(lake.catalog, lake.database, TABLE, STREAM, with_refusal)
    assert read_fence(load_table(lake.catalog, TABLE).metadata).rules == {STREAM: with_refusal}


def test_an_append_on_another_commit_than_the_head_is_refused(lake: Lake, other: Lake) -> None:
    """The offset is the same again, as after a log that shrank: only the commit tells."""
    first = lake.prepare("a", {"x:0": None}, {"x:0": 5})
    stale = replace(other.prepare("a", {"x:0": 5}, {"x:0": 9}), previous_id=first.commit_id)
    for step in (first, lake.prepare("a", {"x:0": 5}, {"x:0": 5})):
        prepared = replace(step, previous_id=read_fence(load_table(lake.catalog, TABLE).metadata).heads.get(STREAM))
        lake.settle(prepared, lake.append(prepared))
    with pytest.raises(FenceMoved, match="built on"):
        other.append(stale)
    assert lake.rows() == 4
