"""Streams as signals."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from k2_dagster.alerts.signals import Reading
from k2_dagster.ingest.status import StreamStatus
from k2_dagster.settings import Settings
from k2_dagster.watch.streams import LATE_TARGETS, STALE_TARGETS, TROUBLE_SECONDS, stream_reading

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WELL = StreamStatus(
    exchange="x", dataset="ticks", driver="dagster", state="ok", fence=10, lag_messages=0, lag_seconds=0.0,
    held_messages=0, rows=10, quarantined=0, open_gaps=0, last_commit=NOW, breaker="none", since=None, problem="",
    fences={0: 10}, ends={0: 10}, size_unit="base", contract_value={},
)  # fmt: skip
SETTINGS = Settings(freshness_target_seconds=60, kafka_retention_hours=24)
STREAM, LAG = "stream/x/ticks", "lag/x/ticks"


def read(one: StreamStatus) -> Reading:
    return stream_reading([one], SETTINGS, NOW)


def severities(one: StreamStatus) -> dict[str, str]:
    return {key: signal.severity for key, signal in read(one).signals.items()}


def test_a_stream_that_goes_on_is_well() -> None:
    found = read(WELL)
    assert (found.signals, found.failure) == ({}, "")
    assert found.tells(STREAM)
    assert found.tells(LAG)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (60 * LATE_TARGETS, {}),
        (60 * LATE_TARGETS + 1, {LAG: "warning"}),
        (60 * STALE_TARGETS + 1, {LAG: "error"}),
        (12 * 3_600 + 1, {LAG: "critical"}),
    ],
)
def test_lag_is_judged_by_the_age_of_the_oldest_message(seconds: float, expected: dict[str, str]) -> None:
    assert severities(replace(WELL, lag_messages=5, lag_seconds=seconds)) == expected


def test_before_messages_are_deleted_it_is_said_when() -> None:
    found = read(replace(WELL, lag_messages=5, lag_seconds=13 * 3_600.0))
    assert found.signals[LAG].text.endswith("Kafka deletes it when it is 1 d old.")


def test_an_age_that_cannot_be_told_is_not_told() -> None:
    found = read(replace(WELL, lag_messages=5, lag_seconds=None))
    assert found.signals == {}
    assert not found.tells(LAG)
    assert found.tells(STREAM)


def test_a_halted_stream_is_an_error_with_its_problem() -> None:
    found = read(replace(WELL, state="halted", problem="offsets 3 to 4 are gone"))
    assert (found.signals[STREAM].severity, found.signals[STREAM].text) == ("error", "offsets 3 to 4 are gone")


@pytest.mark.parametrize("state", ["waiting", "retrying"])
def test_trouble_that_is_retried_is_told_when_it_lasts(state: str) -> None:
    young = replace(WELL, state=state, problem="no broker", since=NOW - timedelta(seconds=TROUBLE_SECONDS - 1))  # type: ignore[arg-type]
    assert severities(young) == {}
    assert severities(replace(young, since=NOW - timedelta(seconds=TROUBLE_SECONDS))) == {STREAM: "warning"}


def test_a_hung_transaction_is_an_error() -> None:
    assert severities(replace(WELL, problem="a transaction that does not end")) == {STREAM: "error"}


def test_streams_that_cannot_be_told_of_fail_the_reading_and_leave_the_others() -> None:
    away = replace(WELL, dataset="book", state="unknown", problem="Kafka could not be asked", lag_seconds=None)
    halted = replace(WELL, state="halted", problem="gone")
    found = stream_reading([away, halted], SETTINGS, NOW)
    assert list(found.signals) == [STREAM]
    assert found.failure == "Kafka could not be asked"
    assert not found.tells("lag/x/book")
    assert not found.tells("stream/x/book")


def test_exchanges_that_nobody_uses_are_left_out() -> None:
    unused = replace(WELL, state="not initialized", fence=0, last_commit=None, problem="no topic")
    assert read(unused).signals == {}
