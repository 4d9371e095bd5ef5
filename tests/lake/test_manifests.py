"""Manifests are put together in tiers: each file's entry is written a few times, whatever the history."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.lake import manifests
from k2_dagster.lake.catalog import load_table
from k2_dagster.lake.manifests import FANOUT, MOST_FILES, to_merge
from tests.lake.conftest import TABLE, Lake


@given(st.lists(st.integers(0, 3), max_size=3_000))
def test_lists_stay_short_and_no_entry_is_written_often(commits: list[int]) -> None:
    """Each commit brings a manifest of so many files; `written` is how often the entries of a manifest were."""
    held: list[tuple[int, int]] = []
    for files in commits:
        held.insert(0, (files, 1))
        group = to_merge([count for count, _ in held])
        if group:
            assert len(group) >= FANOUT
            merged = sum(held[place][0] for place in group), 1 + max(held[place][1] for place in group)
            held = [merged, *(one for place, one in enumerate(held) if place not in set(group))]
    assert sum(count for count, _ in held) == sum(commits)
    assert max((written for _, written in held), default=0) <= 3
    assert len(held) <= 2 * FANOUT + sum(commits) // MOST_FILES


@given(st.lists(st.integers(MOST_FILES, 10 * MOST_FILES), max_size=3 * FANOUT))
def test_full_ones_are_left_alone(files: list[int]) -> None:
    assert to_merge(files) == []


@pytest.mark.stack
def test_a_table_has_each_file_once_through_merges_of_all_tiers(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "FANOUT", 3)
    monkeypatch.setattr(manifests, "MOST_FILES", 9)
    paths, snapshots, position = [], {}, None
    for number in range(1, 32):
        append = lake.prepare("a", {"x:0": position}, {"x:0": number})
        landed, position = lake.append(append), number
        paths.append(append.files[0].file_path)
        snapshots[paths[-1]] = landed.snapshot_id
    table = load_table(lake.catalog, TABLE)
    assert sorted(task.file.file_path for task in table.scan().plan_files()) == sorted(paths)
    entries = table.inspect.entries()
    added = dict(
        zip(
            (one["file_path"] for one in entries["data_file"].to_pylist()),
            entries["snapshot_id"].to_pylist(),
            strict=True,
        )
    )
    assert added == snapshots, "when a file came in stays known"
    head = table.current_snapshot()
    assert head is not None
    counts = [(one.added_files_count or 0) + (one.existing_files_count or 0) for one in head.manifests(table.io)]
    assert sorted(counts, reverse=True) == [9, 9, 9, 3, 1]
    assert lake.rows() == 2 * len(paths)
