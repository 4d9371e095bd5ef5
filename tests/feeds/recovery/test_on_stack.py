"""Gaps that are asked for, recovered and filled, on real Kafka, PostgreSQL and tables."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from k2_dagster.alerts.recovery import Unserved
from k2_dagster.coverage.asking import complete
from k2_dagster.coverage.complete import Complete, Gaps
from k2_dagster.errors import (
    RecoveryRefused,
    VenueUnavailable,
)
from k2_dagster.feeds.recovery.deciding import Terms
from k2_dagster.feeds.recovery.source import MissingRange
from k2_dagster.state.gaps import record_event
from k2_dagster.watch.recovery import recovery_trouble
from tests.feeds.recovery.conftest import MakeRecoverable, Recoverable
from tests.feeds.recovery.faking import FakeSource

pytestmark = pytest.mark.stack

START = datetime(2026, 1, 1, tzinfo=UTC)
CHILD_SECONDS = 60.0


def asked(exchange: Recoverable, first: int, last: int, stream: str = "ticks_stream") -> object:
    times = (START + timedelta(seconds=one) for one in (first, last))
    return complete(exchange.database, exchange.profiles, exchange.name, stream, "A", *times)


def reasons(exchange: Recoverable) -> Counter[str]:
    return Counter(row["reason"] for row in exchange.landed("quarantine"))


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
    # to the partition that it was missed in, without the pair of a live publisher
    assert {(row["kafka_partition"], row["publisher_session"], row["publisher_sequence"]) for row in recovered} == {
        (0, None, None)
    }
    again = with_gap.recover(source)
    assert (again.asked, again.published, dict(again.outcomes)) == (0, 0, {})


def test_what_came_meanwhile_is_not_fetched_again(with_gap: Recoverable) -> None:
    with_gap.numbers_of([25, 26, 40])
    source = FakeSource()
    with_gap.recover(source)
    assert [(one.first, one.last) for one in source.asked] == [(21, 24), (27, 39)]
    assert with_gap.gap()["state"] == "filled"
    assert not reasons(with_gap)


def test_a_gap_that_filled_before_its_request_was_served_is_skipped(with_gap: Recoverable) -> None:
    assert json.loads(with_gap.k2("gaps", "request", str(with_gap.gap()["id"]), "--json"))[0]["attempt"] == 1
    with_gap.numbers_of(list(range(21, 41)))
    source = FakeSource()
    report = with_gap.recover(source)
    assert (source.asked, [(one.outcome, one.note) for one in report.last]) == ([], [("skip", "it is filled")])


def test_the_session_may_be_over(recoverable: Recoverable) -> None:
    recoverable.numbers_of([one for one in range(1, 61) if not 20 < one <= 40], session="monday")
    recoverable.numbers_of(list(range(1, 10)), session="tuesday")
    recoverable.recover(FakeSource())
    assert recoverable.gap()["state"] == "filled"
    rows = [row for row in recoverable.landed() if row["origin"] == "recovered"]
    assert {(row["session"], row["sequence"]) for row in rows} == {("monday", one) for one in range(21, 41)}


def test_a_range_is_fetched_in_chunks(recoverable: Recoverable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k2_dagster.feeds.recovery.serving.CHUNK_MESSAGES", 7)
    recoverable.numbers_of([1, *range(22, 50)])
    source = FakeSource()
    recoverable.recover(source)
    assert [(one.first, one.last) for one in source.asked] == [(2, 8), (9, 15), (16, 21)]
    assert recoverable.sequences() == list(range(1, 50))


def test_a_gap_that_only_warns_is_asked_for_by_wish(recoverable: Recoverable) -> None:
    recoverable.numbers_of([1, 2, *range(5, 30)])
    source = FakeSource()
    assert recoverable.recover(source).asked == 0
    gap_id = str(recoverable.gap()["id"])
    shown = recoverable.k2("gaps", "request", gap_id, "--by", "ada", "--reason", "for the report")
    assert f"/{recoverable.gap()['first_sequence']}/1" in shown
    assert recoverable.gap()["state"] == "requested"
    assert recoverable.recover(source).published == 2
    assert recoverable.gap()["state"] == "filled"
    told = recoverable.k2("gaps", "show", gap_id)
    assert "request (attempt 1) by ada: for the report" in told
    assert "recover (attempt 1) by k2 recover: 2 messages were published" in told
    assert json.loads(recoverable.k2("gaps", "--exchange", recoverable.name, "--json"))[0]["attempts"] == 1
    assert "it is filled" in recoverable.k2("gaps", "request", gap_id, status=4)
    assert "no gap 999999" in recoverable.k2("gaps", "request", "999999", status=4)


def test_a_critical_gap_is_asked_for_once_its_halt_is_acknowledged(make_recoverable: MakeRecoverable) -> None:
    exchange = make_recoverable(halt=True)
    exchange.numbers_of([1, *range(502, 530)])
    source = FakeSource()
    assert exchange.recover(source).asked == 0
    gap_id = str(exchange.gap()["id"])
    assert "k2 breaker acknowledge" in exchange.k2("gaps", "request", gap_id, status=4)
    (breaker,) = json.loads(exchange.k2("breaker", "list", "--exchange", exchange.name, "--json"))
    exchange.k2("breaker", "acknowledge", str(breaker["id"]), "--reason", "the line was cut")
    assert exchange.recover(source).published == 500
    exchange.drain()
    assert exchange.gap()["state"] == "filled"
    assert exchange.sequences() == list(range(1, 530))


def test_what_the_source_has_no_more_is_given_up_and_what_it_has_lands(with_gap: Recoverable) -> None:
    report = with_gap.recover(FakeSource(has=lambda one: one != 30))
    assert (report.published, report.expired, dict(report.outcomes)) == (19, 1, {"refuse": 1})
    gap = with_gap.gap()
    assert (gap["state"], gap["filled"]) == ("expired", 19)
    reason = "19 messages were published, 1 of 20 numbers were not given: the archive has no more of them"
    assert [(one["event"], one["note"]) for one in gap["events"]][1:] == [("refuse", reason), ("expire", reason)]
    (lost,) = recovery_trouble(with_gap.database, with_gap.profiles).lost
    assert (lost.gap_id, lost.reason) == (gap["id"], reason)
    assert "`k2 gaps request" in with_gap.k2("gaps", "show", str(gap["id"]))
    # by wish once more, of what is missing alone
    with_gap.k2("gaps", "request", str(gap["id"]))
    source = FakeSource()
    with_gap.recover(source)
    assert [(one.first, one.last) for one in source.asked] == [(30, 30)]
    assert with_gap.gap()["state"] == "filled"
    assert recovery_trouble(with_gap.database, with_gap.profiles).lost == []


def test_a_source_that_refuses_is_not_asked_again(with_gap: Recoverable) -> None:
    def refuse(_: MissingRange) -> None:
        raise RecoveryRefused("it keeps one day", advice="ask sooner")

    with_gap.recover(FakeSource(before=refuse))
    assert with_gap.events() == [("request", 1), ("refuse", 1), ("expire", 1)]
    assert with_gap.gap()["events"][-1]["note"] == "it keeps one day (ask sooner)"


def test_a_venue_that_is_away_is_tried_again_and_given_up_in_the_end(with_gap: Recoverable) -> None:
    def away(_: MissingRange) -> None:
        raise VenueUnavailable("it is away", wait_seconds=0.0)

    terms = Terms(max_attempts=2)
    assert with_gap.recover(FakeSource(before=away), terms).expired == 0
    assert (with_gap.gap()["state"], with_gap.events()) == ("requested", [("request", 1), ("fail", 1)])
    assert "the last attempt failed" in with_gap.k2("gaps", "show", str(with_gap.gap()["id"]))
    assert with_gap.recover(FakeSource(before=away), terms).asked == 0  # not before its time
    with_gap.k2("gaps", "request", str(with_gap.gap()["id"]))
    with_gap.recover(FakeSource(before=away), terms)
    assert with_gap.events()[-2:] == [("fail", 2), ("expire", 2)]
    assert with_gap.gap()["events"][-1]["note"] == "2 attempts failed, the last one: it is away"


def test_numbers_that_are_forgotten_are_not_fetched(with_gap: Recoverable) -> None:
    with with_gap.database.begin() as connection:
        connection.exec_driver_sql("UPDATE k2.gaps SET session = 'long over'")
    source = FakeSource()
    report = with_gap.recover(source)
    assert (source.asked, dict(report.outcomes), report.expired) == ([], {"refuse": 1}, 1)
    assert "closed_session_days" in with_gap.gap()["events"][-1]["note"]


def test_an_accepted_gap_is_left_alone(with_gap: Recoverable) -> None:
    gap_id = str(with_gap.gap()["id"])
    assert "accepted" in with_gap.k2("gaps", "accept", gap_id, "--reason", "known outage")
    assert with_gap.recover(FakeSource()).asked == 0


def test_requests_that_nobody_serves_become_an_incident(with_gap: Recoverable) -> None:
    def look() -> Sequence[Unserved]:
        return recovery_trouble(with_gap.database, with_gap.profiles).unserved

    assert look() == []
    for table, column in (("gaps", "changed_at"), ("gap_events", "at")):
        with with_gap.database.begin() as connection:
            record_event(connection, with_gap.gap()["id"], "request", by="me", note="", attempt=1)
            connection.exec_driver_sql(f"UPDATE k2.{table} SET {column} = {column} - interval '11 minutes'")
    (unserved,) = look()
    assert (unserved.exchange, unserved.gaps) == (with_gap.name, 1)
    assert unserved.seconds > 600
