"""Gaps that are asked for, recovered and filled, on real Kafka, PostgreSQL and tables."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from k2_dagster.coverage.asking import complete
from k2_dagster.coverage.complete import Complete, Gaps
from k2_dagster.errors import RecoveryRefused, VenueUnavailable
from k2_dagster.feeds.recovery.deciding import Terms
from k2_dagster.feeds.recovery.source import MissingRange
from tests.feeds.recovery.conftest import IMPATIENT, MakeRecoverable, Recoverable
from tests.feeds.recovery.faking import FakeSource

pytestmark = pytest.mark.stack

START = datetime(2026, 1, 1, tzinfo=UTC)


def asked(exchange: Recoverable, first: int, last: int) -> object:
    times = (START + timedelta(seconds=one) for one in (first, last))
    return complete(exchange.database, exchange.profiles, exchange.name, "ticks_stream", "A", *times)


def test_a_gap_of_twenty_is_asked_for_recovered_and_filled(with_gap: Recoverable) -> None:
    assert isinstance(asked(with_gap, 2, 59), Gaps)
    source = FakeSource()
    report = with_gap.recover(source)
    assert (report.asked, report.published, dict(report.outcomes)) == (1, 20, {"recover": 1})
    assert [(one.first, one.last, one.stream, one.symbol) for one in source.asked] == [(21, 40, "ticks_stream", "A")]
    assert with_gap.sequences() == list(range(1, 61))
    gap = with_gap.gap()
    assert (gap["state"], gap["filled"]) == ("filled", 20)
    assert with_gap.events() == [("request", 1), ("recover", 1)]
    assert asked(with_gap, 2, 59) == Complete("venue")
    recovered = [row for row in with_gap.landed() if row["origin"] == "recovered"]
    assert [row["sequence"] for row in recovered] == list(range(21, 41))
    assert {(row["kafka_partition"], row["publisher_session"], row["publisher_sequence"]) for row in recovered} == {
        (0, None, None)
    }
    again = with_gap.recover(source)
    assert (again.asked, again.published, dict(again.outcomes)) == (0, 0, {})
