"""What a materialization says of the commits it counts, and of the day."""

import uuid
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from k2_dagster.assets.landed import ROW_COUNT, RUNS_SHOWN, slice_numbers, slice_texts
from k2_dagster.assets.mirror import CHECK_SECONDS, Report
from tests.dagster_support import Market, reported, run_check_job

DAY = "2026-05-01"


def _commit(number: int, **changes: Any) -> SimpleNamespace:
    place = {"topic": "t", "partition": 0, "start": number * 10, "end": number * 10 + 9}
    commit = {
        "days": {DAY: 5, "2026-05-02": 1}, "counts": {"bytes": 100, "quarantined": 1}, "ranges": [place],
        "snapshot_id": 2**62, "schema_ids": [number], "stamp": datetime.now(UTC), "run_id": "", "code_version": "0",
        "rules_version": 1, "commit_seconds": number / 100, "position": number,
    }  # fmt: skip
    return SimpleNamespace(**commit | changes)


def test_the_slice_is_of_the_commits_given_and_of_one_day() -> None:
    found = slice_numbers([_commit(1), _commit(2), _commit(3)], DAY)
    assert (found["rows"], found["bytes"], found["quarantined"], found["commits"]) == (15, 300, 3, 3)
    assert (found["commit_seconds_p50"], found["commit_seconds_max"]) == (0.02, 0.03)
    told = slice_texts([_commit(1), _commit(2), _commit(3)])
    assert told["offsets"].value == {"t:0": [10, 39]}
    assert told["snapshot_id"] == str(2**62)
    assert told["schema_ids"].value == [1, 2, 3]


def test_a_slice_of_nothing_has_the_numbers_that_plot() -> None:
    assert slice_texts([]) == {}
    assert slice_numbers([], DAY) == {
        "rows": 0,
        "quarantined": 0,
        "duplicates": 0,
        "late": 0,
        "bytes": 0,
        "commits": 0,
    }


def test_runs_are_links_and_processes_are_names_newest_first() -> None:
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    found = slice_texts([_commit(1, run_id=first), _commit(2, run_id=second), _commit(3, run_id="host:7:ab")])
    assert (found["runs"], found["run"]) == (3, "host:7:ab")
    assert (found["run_2"], found["run_3"]) == (
        dg.MetadataValue.dagster_run(second),
        dg.MetadataValue.dagster_run(first),
    )
    many = slice_texts([_commit(number, run_id=f"p{number}") for number in range(9)])
    assert (many["runs"], f"run_{RUNS_SHOWN}" in many, f"run_{RUNS_SHOWN + 1}" in many) == (9, True, False)


@pytest.mark.parametrize(("check_seconds", "interval"), [(0.0, 50.0), (2.4, 50.0), (6.0, 120.0), (300.0, 600.0)])
def test_a_partition_whose_check_takes_long_is_reported_rarer(check_seconds: float, interval: float) -> None:
    assert Report(7, 1_000.0, check_seconds).next_at == 1_000.0 + interval


@pytest.mark.stack
def test_a_check_run_reports_what_it_has_read(market: Market, instance: dg.DagsterInstance) -> None:
    published = market.publish(market.exchange, 500)
    report = market.drain(market.exchange, run_id="a-run")
    datasets = ("ticks", "quotes", "book", "control", "instruments")
    run_check_job(market, instance, [(one, market.exchange, market.today) for one in datasets], mirrored=True)
    found = [event for one in datasets for event in reported(instance, market, market.today, one)]
    assert len(found) == 5
    assert sum(one["rows"] for one in found) == report.rows == published
    assert all(one[ROW_COUNT] == one["rows"] for one in found)
    assert all(one["run"] == "a-run" and one["schema_ids"] for one in found)
    assert all(one["day_bytes"] == one["bytes"] > 0 and one["day_files"] > 0 for one in found)
    assert all(0 < one[CHECK_SECONDS] < 60 for one in found)
    run_check_job(market, instance, [("ticks", market.exchange, market.today)], mirrored=True)
    assert len(reported(instance, market, market.today)) == 1, "nothing landed"
