"""Shared metadata says what PyIceberg's own says, and no commit changes what somebody else holds."""

import pytest
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table

from k2_dagster.lake.catalog import load_table
from k2_dagster.lake.metadata import SharedMetadata, shared
from tests.lake.conftest import TABLE, Lake


def stored(table: Table) -> object:
    return FromInputFile.table_metadata(table.io.new_input(table.metadata_location)).model_dump()


def test_a_commit_leaves_the_metadata_that_it_was_made_from_as_it_was(lake: Lake) -> None:
    first = load_table(lake.catalog, TABLE)
    assert isinstance(first.metadata, SharedMetadata)
    for at in range(3):
        before = load_table(lake.catalog, TABLE)
        told = before.metadata.model_dump()
        assert told == stored(before)
        lake.append(lake.prepare("a", {"x:0": at or None}, {"x:0": at + 1}))
        assert before.metadata.model_dump() == told
        after = load_table(lake.catalog, TABLE)
        assert after.metadata.model_dump() == stored(after)
        assert [one.snapshot_id for one in after.metadata.snapshots[:at]] == [
            one.snapshot_id for one in before.metadata.snapshots
        ]
    assert first.metadata.snapshots == []


def test_a_copy_has_its_changes_and_shares_the_rest(lake: Lake) -> None:
    metadata = load_table(lake.catalog, TABLE).metadata
    copy = metadata.model_copy(update={"properties": {"a": "b"}}, deep=True)
    assert (copy.properties, copy.schemas) == ({"a": "b"}, metadata.schemas)
    assert copy.schemas is metadata.schemas
    assert metadata.properties != copy.properties
    assert shared(copy) is copy


def test_a_table_that_has_moved_on_refuses_the_commit(lake: Lake) -> None:
    stale = load_table(lake.catalog, TABLE)
    lake.append(lake.prepare("a", {"x:0": None}, {"x:0": 1}))
    with pytest.raises(CommitFailedException), stale.transaction() as transaction:
        transaction.set_properties({"a": "b"})
    assert "a" not in load_table(lake.catalog, TABLE).metadata.properties
    assert lake.rows() == 2
