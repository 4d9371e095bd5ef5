"""The worker of an exchange: what it reads, what it passes over, what it outlives."""

import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from confluent_kafka import Producer

from k2_dagster.devstack.process import wait_until
from k2_dagster.errors import (
    DatabaseUnavailable,
    KafkaUnavailable,
    NotInitialized,
    RegistryUnavailable,
    VenueUnavailable,
)
from k2_dagster.feeds.live.backoff import Backoff
from k2_dagster.feeds.recovery import worker as worker_module
from k2_dagster.feeds.recovery.requests import request_rows
from k2_dagster.feeds.recovery.sending import Sender
from k2_dagster.feeds.recovery.source import MissingRange
from k2_dagster.feeds.recovery.worker import RecoveryReport, Worker
from k2_dagster.kafka.clients import producer_config
from k2_dagster.kafka.registry import Registry
from k2_dagster.schemas.topics import topic_name
from tests.feeds.recovery.conftest import Recoverable
from tests.feeds.recovery.faking import FakeSource

pytestmark = pytest.mark.stack


def test_a_venue_that_wants_to_be_left_alone_is_left_alone(with_gap: Recoverable) -> None:
    """Also for the other gaps: its limits are ours as a whole."""
    with_gap.publish([with_gap.tick("B", sequence=one) for one in range(1, 61) if not 20 < one <= 40])
    with_gap.drain()

    def busy(_: MissingRange) -> None:
        raise VenueUnavailable("too many requests", wait_seconds=600.0)

    source = FakeSource(before=busy)
    report = with_gap.recover(source)
    assert (report.asked, len(source.asked), dict(report.outcomes)) == (2, 1, {"fail": 1})
    with with_gap.database.begin() as connection:
        due = connection.exec_driver_sql("SELECT due - at FROM k2.gap_events WHERE event = 'fail'").scalar_one()
    assert timedelta(seconds=595) < due <= timedelta(seconds=600)
    # the request that was not served is still there for the next worker
    assert with_gap.recover(FakeSource()).outcomes == {"recover": 1}


def test_requests_that_are_none_or_not_ours_are_passed_over(with_gap: Recoverable) -> None:
    topic = topic_name("recovery", with_gap.name)
    producer = Producer(producer_config(with_gap.settings))
    for value in (b"junk", None, b"\0\0\0\0\0x"):
        producer.produce(topic, value, b"key")
    assert producer.flush(20) == 0
    report = with_gap.recover(FakeSource())
    assert (report.refused, dict(report.outcomes)) == (3, {"recover": 1})
    assert with_gap.gap()["state"] == "filled"


def test_the_same_request_twice_is_served_once(with_gap: Recoverable) -> None:
    gap = with_gap.gap()
    with (
        closing(Registry(with_gap.settings)) as registry,
        Sender(with_gap.settings, with_gap.profiles, with_gap.name, registry) as sender,
    ):
        for _ in range(3):
            sender.request(request_rows(gap, 1, by="other", reason=""))
        sender.request(request_rows({**gap, "first_sequence": 22}, 1, by="other", reason=""))
        sender.request(request_rows({**gap, "id": 999_999}, 1, by="other", reason=""))
    source = FakeSource()
    report = with_gap.recover(source)
    assert len(source.asked) == 1
    assert report.outcomes == {"recover": 1, "skip": 5}
    assert {one.note.split(":")[0] for one in report.last if one.outcome == "skip"} == {
        "this attempt was served before",
        f"gap {gap['id']} is another one",
        "there is no gap 999999",
    }


def test_requests_of_a_topic_that_was_made_again_are_read_from_its_beginning(with_gap: Recoverable) -> None:
    assert with_gap.recover(FakeSource(has=lambda one: one < 40)).outcomes == {"refuse": 1}
    with with_gap.database.begin() as connection:
        connection.exec_driver_sql("UPDATE k2.cursors SET position = 1000 WHERE reader LIKE 'recovery:%%'")
    with_gap.k2("gaps", "request", str(with_gap.gap()["id"]))
    report = with_gap.recover(FakeSource())
    assert report.outcomes == {"skip": 1, "recover": 1}


def test_a_running_worker_outlives_what_is_away(with_gap: Recoverable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database when it asks, the registry in the middle of a request: the request is read again."""
    failures = [DatabaseUnavailable("away"), RegistryUnavailable("away"), KafkaUnavailable("away")]
    stop, report = threading.Event(), RecoveryReport(with_gap.name, "fake")

    def fail_once(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            if failures:
                raise failures.pop()
            return real(*arguments)

        return wrapped

    for name in ("ask_round", "read_request"):
        real = getattr(worker_module, name)
        monkeypatch.setattr(worker_module, name, fail_once(real))
    monkeypatch.setattr(worker_module, "PAUSE", Backoff(0.01, 0.01))
    monkeypatch.setattr(worker_module, "ASK_SECONDS", 0.05)
    worker = Worker(with_gap.settings, with_gap.profiles, with_gap.name, FakeSource(), report=report, stop=stop)
    with worker:
        runner = threading.Thread(target=worker.run)
        runner.start()
        assert wait_until(lambda: report.outcomes["recover"] == 1, 60.0)
        stop.set()
        runner.join(20.0)
    assert (failures, runner.is_alive()) == ([], False)
    with_gap.drain()
    assert with_gap.gap()["state"] == "filled"


def test_topics_that_are_missing_are_told(recoverable: Recoverable) -> None:
    profiles = recoverable.profiles
    other = profiles.model_copy(update={"exchanges": {"nobody": profiles.exchange(recoverable.name)}})
    with closing(Registry(recoverable.settings)) as registry, pytest.raises(NotInitialized, match=r"market\.recovery"):
        Sender(recoverable.settings, other, "nobody", registry)
