"""What passes and how bad a finding is, from facts alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from k2_dagster.assets.check_facts import CommitFacts, FreshnessFacts, PartitionFacts, Repeats
from k2_dagster.assets.check_findings import Finding, judge
from k2_dagster.schemas.quarantine import REASONS

TARGET_SECONDS = 10.0
CLEAN = PartitionFacts(
    dataset="ticks", exchange="sim", day="2026-05-01", snapshot_id=1, rows=5, bytes=100, repeated_offsets=Repeats(),
    repeated_identities=Repeats(), backwards=Repeats(), split_symbols=Repeats(), skewed=Repeats(),
    against_sequence=Repeats(), reasons={},
    commits=CommitFacts(rows=5, commits=1), gaps=(), freshness=FreshnessFacts(judged=True), schema_differences=(),
)  # fmt: skip


def _gap(level: str, missing: int = 3, **changes: Any) -> dict[str, Any]:
    gap = {
        "id": 1, "channel": "",
        "numbering": "venue", "stream": "trade", "kind": "trade", "symbol": "A", "session": "", "first_sequence": 5,
        "last_sequence": 4 + missing, "missing": missing, "filled": 0, "quarantined": 0, "level": level,
        "kafka_partition": 0, "reported_offset": 9, "state": "open", "cause": "unknown",
    }  # fmt: skip
    return gap | changes


def _only_failure(facts: PartitionFacts) -> Finding:
    failed = [one for one in judge(facts, TARGET_SECONDS) if not one.passed]
    assert len(failed) == 1, failed
    return failed[0]


def test_a_clean_partition_passes_every_check() -> None:
    found = judge(CLEAN, TARGET_SECONDS)
    assert len(found) == 8
    assert all(one.passed for one in found)


@pytest.mark.parametrize(("level", "severity"), [("warn", "WARN"), ("page", "ERROR"), ("halt", "ERROR")])
def test_a_gap_is_as_bad_as_its_level(level: str, severity: str) -> None:
    found = _only_failure(replace(CLEAN, gaps=[_gap("warn"), _gap(level)]))
    assert (found.check, found.severity) == ("sequence_gaps", severity)
    assert (found.metadata["gaps"], found.metadata["messages_missing"]) == (2, 6)
    assert found.metadata["ranges"][0]["first_sequence"] == 5


def test_filled_and_explained_gaps_are_none() -> None:
    gaps = [_gap("halt", state="filled", filled=3), _gap("halt", cause="quarantined")]
    assert all(one.passed for one in judge(replace(CLEAN, gaps=gaps), TARGET_SECONDS))


def test_a_channel_gap_is_a_finding_of_the_control_table_until_somebody_accepts_it() -> None:
    gap = _gap("warn", numbering="channel", channel="feed-1")
    found = _only_failure(replace(CLEAN, dataset="control", gaps=[gap]))
    assert (found.check, found.metadata["ranges"][0]["channel"]) == ("sequence_gaps", "feed-1")
    accepted = replace(CLEAN, dataset="control", gaps=[gap | {"state": "accepted"}])
    assert all(one.passed for one in judge(accepted, TARGET_SECONDS))


def test_what_became_of_the_gaps_is_told_by_level_and_state() -> None:
    gaps = [
        *(_gap("warn", state="accepted"), _gap("warn", state="filled"), _gap("warn", state="filled")),
        *(_gap("halt", state="requested"), _gap("page", cause="quarantined")),
    ]
    found = _only_failure(replace(CLEAN, gaps=gaps))
    assert found.metadata["by_level_and_state"] == {
        "warn": {"accepted": 1, "filled": 2},
        "halt": {"requested": 1},
        "page": {"quarantined": 1},
    }


@pytest.mark.parametrize("commits", [CommitFacts(rows=4), CommitFacts(rows=5, broken=["a range"])])
def test_rows_that_the_commits_do_not_explain_are_an_error(commits: CommitFacts) -> None:
    found = _only_failure(replace(CLEAN, commits=commits))
    assert (found.check, found.severity) == ("accounting", "ERROR")


@pytest.mark.parametrize("name", ["repeated_offsets", "repeated_identities"])
def test_a_repeated_row_is_an_error_with_examples(name: str) -> None:
    facts = replace(CLEAN, **{name: Repeats(2, [{"symbol": "A"}])})  # type: ignore[arg-type]
    found = _only_failure(facts)
    assert (found.check, found.severity, found.metadata["examples"]) == ("unique_identity", "ERROR", [{"symbol": "A"}])


def test_a_late_message_warns_and_a_split_symbol_is_an_error() -> None:
    assert _only_failure(replace(CLEAN, backwards=Repeats(1))).severity == "WARN"
    assert _only_failure(replace(CLEAN, split_symbols=Repeats(1))).severity == "ERROR"


@pytest.mark.parametrize("name", ["skewed", "against_sequence"])
def test_a_time_that_cannot_be_right_is_a_warning_with_examples(name: str) -> None:
    found = _only_failure(replace(CLEAN, **{name: Repeats(2, [{"symbol": "A"}])}))  # type: ignore[arg-type]
    assert (found.check, found.severity, found.metadata["examples"]) == ("times", "WARN", [{"symbol": "A"}])


@pytest.mark.parametrize(
    ("age_seconds", "passed", "severity"), [(15, True, ""), (30, False, "WARN"), (150, False, "ERROR")]
)
def test_freshness_is_the_age_of_the_oldest_unlanded_message(age_seconds: int, passed: bool, severity: str) -> None:
    oldest = datetime.now(UTC) - timedelta(seconds=age_seconds)
    facts = replace(CLEAN, freshness=FreshnessFacts(judged=True, lag_messages=4, oldest=oldest))
    found = next(one for one in judge(facts, TARGET_SECONDS) if one.check == "freshness")
    assert found.passed == passed
    assert passed or found.severity == severity


def test_freshness_that_cannot_be_told_is_a_warning() -> None:
    found = _only_failure(replace(CLEAN, freshness=FreshnessFacts(judged=True, error="no broker")))
    assert (found.check, found.severity) == ("freshness", "WARN")


def test_a_changed_schema_is_an_error() -> None:
    assert _only_failure(replace(CLEAN, schema_differences=["column 4"])).check == "schema"


def test_broken_rules_are_told_by_rule() -> None:
    commits = CommitFacts(rows=5, reasons={"rule_violated": 3, "duplicate": 9}, rules={"price_positive": 3})
    found = _only_failure(replace(CLEAN, commits=commits))
    assert (found.check, found.severity) == ("rules", "WARN")
    assert (found.metadata["refused"], found.metadata["rule_price_positive"]) == (3, 3)


def test_quarantine_is_at_ease_with_duplicates_and_with_nothing_else() -> None:
    quarantine = replace(CLEAN, dataset="quarantine", reasons={"duplicate": 5})
    assert all(one.passed for one in judge(quarantine, TARGET_SECONDS))
    damaged = _only_failure(replace(quarantine, reasons={"duplicate": 5, "undecodable": 1}))
    assert (damaged.check, damaged.severity) == ("reasons", "WARN")
    assert _only_failure(replace(quarantine, reasons={"from_the_future": 1})).severity == "ERROR"
    assert "from_the_future" not in REASONS
