"""Incidents and deliveries in a real PostgreSQL."""

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from k2_dagster.alerts import outbox as outbox_module
from k2_dagster.alerts.delivery import MOST_ATTEMPTS, Deliverer, wait_seconds
from k2_dagster.alerts.listing import list_incidents, retry_deliveries, show_incident
from k2_dagster.alerts.messages import Message
from k2_dagster.alerts.outbox import Outbox
from k2_dagster.alerts.targets import Target, parse_targets
from k2_dagster.errors import DatabaseUnavailable, QueryRefused
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.tables import incident_deliveries as deliveries
from k2_dagster.state.tables import incidents
from tests.alerts.support import LINKS, A, B, Receiver, Sent, deliverer, expanded, reading, receiving, signal

pytestmark = pytest.mark.stack


def rows(database: Database, table: Any) -> Sequence[Any]:
    with database.begin() as connection:
        return connection.execute(select(table).order_by(table.c.key)).all()


def make_due(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(update(deliveries).values(next_at=func.clock_timestamp()))


def test_a_transition_is_written_with_its_deliveries_and_told_in_order(
    database: Database, outbox: Outbox, sent: Sent
) -> None:
    (opened,) = outbox.update([reading(x=signal("warning"))], [A, B])
    assert (opened.identity, opened.transition) == ("test/x#1", "opened")
    outbox.update([reading(x=signal("error"))], [A, B])
    assert outbox.update([reading(x=signal("error"))], [A, B]) == []
    outbox.update([reading()], [A, B])
    done = deliverer(database, sent).deliver([A, B])
    assert (done.sent, done.failed) == (5, 0)
    assert [one for name, one in sent.told if name == "a"] == ["test/x#1", "test/x#2", "test/x#3"]
    # a warning is not for b; what became an error is, and how that ended
    assert [one for name, one in sent.told if name == "b"] == ["test/x#2", "test/x#3"]
    assert deliverer(database, sent).deliver([A, B]).sent == 0
    (row,) = rows(database, incidents)
    assert (row.severity, row.transitions, row.resolved_at is not None) == ("error", 3, True)


def test_a_key_that_comes_back_goes_on_counting(database: Database, outbox: Outbox) -> None:
    for found in (reading(x=signal()), reading(), reading(x=signal())):
        outbox.update([found], [A])
    (row,) = rows(database, incidents)
    assert (row.transitions, row.occurrences, row.resolved_at) == (3, 2, None)
    assert outbox.next_number("test/x") == 4
    assert outbox.next_number("test/y") == 1


def test_a_write_that_fails_leaves_nothing(database: Database, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise DatabaseUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(outbox_module, "_write_transition", fail)
        with pytest.raises(DatabaseUnavailable):
            outbox.update([reading(x=signal())], [A])
    assert rows(database, incidents) == []
    assert [one.identity for one in outbox.update([reading(x=signal())], [A])] == ["test/x#1"]


def test_a_target_that_is_down_waits_longer_each_time_and_holds_up_nobody(
    database: Database, outbox: Outbox, sent: Sent
) -> None:
    outbox.update([reading(x=signal(), y=signal())], [A, B])
    sent.down = {"a"}
    sender = deliverer(database, sent)
    done = sender.deliver([A, B])
    assert (done.sent, done.failed, done.silent) == (2, 1, {"a"})
    assert [name for name, _ in sent.told] == ["b", "b"]
    sender.deliver([A, B])  # the other one, which is due still
    assert sender.deliver([A, B]).failed == 0
    waiting = [one for one in rows(database, deliveries) if one.target == "a"]
    assert [(one.attempts, one.error) for one in waiting] == [(1, "a did not take it: down")] * 2
    sent.down = set()
    make_due(database)
    assert sender.deliver([A, B]).sent == 2


def test_waits_double_up_to_the_longest() -> None:
    assert [wait_seconds(one) for one in (1, 2, 3, 8, 600)] == [5.0, 10.0, 20.0, 600.0, 600.0]


def test_what_ends_is_told_after_what_began_even_when_that_is_late(
    database: Database, outbox: Outbox, sent: Sent
) -> None:
    sent.down = {"a"}
    sender = deliverer(database, sent)
    outbox.update([reading(x=signal())], [A])
    sender.deliver([A])
    outbox.update([reading(y=signal())], [A])
    sent.down = set()
    sender.deliver([A])
    assert sent.told == [("a", "test/y#1")]  # x#2 waits behind x#1, y does not
    make_due(database)
    sender.deliver([A])
    assert sent.told[1:] == [("a", "test/x#1"), ("a", "test/x#2")]


def test_after_the_last_attempt_it_is_given_up_shown_and_taken_up_by_hand(
    database: Database, outbox: Outbox, sent: Sent
) -> None:
    sent.down = {"a"}
    outbox.update([reading(x=signal())], [A])
    with database.begin() as connection:
        connection.execute(update(deliveries).values(attempts=MOST_ATTEMPTS - 1))
    sender = deliverer(database, sent)
    sender.deliver([A])
    make_due(database)
    sent.down = set()
    assert sender.deliver([A]).sent == 0
    outbox.update([reading()], [A])
    sender.deliver([A])  # the end is told nevertheless
    assert sent.told == [("a", "test/x#2")]
    (listed,) = list_incidents(database, everything=False, limit=10)
    assert (listed["key"], listed["undelivered"], listed["problem"]) == ("test/x", 1, "a did not take it: down")
    assert retry_deliveries(database, "test/y") == 0
    assert retry_deliveries(database, None) == 1
    assert sender.deliver([A]).sent == 1
    assert list_incidents(database, everything=False, limit=10) == []
    assert len(list_incidents(database, everything=True, limit=10)) == 1


def test_what_waits_for_an_address_that_was_mended_goes_to_the_new_one(
    database: Database, outbox: Outbox, sent: Sent
) -> None:
    wrong = Target("typo", "warning", "json://typo")
    outbox.update([reading(x=signal())], [wrong, B])
    sender = deliverer(database, sent)
    sent.down = {"typo"}
    sender.deliver([wrong, B])
    assert outbox.readdress([]) == 0
    assert outbox.readdress([wrong, B]) == 0
    assert outbox.readdress([A, B]) == 1
    sender.deliver([A, B])
    assert sent.told == [("b", "test/x#1"), ("a", "test/x#1")]
    assert {one.target for one in rows(database, deliveries)} == {"a", "b"}


def test_who_is_named_later_is_told_what_is_open(database: Database, outbox: Outbox, sent: Sent) -> None:
    for found in (reading(x=signal(), y=signal()), reading(x=signal())):
        outbox.update([found], [])
    assert outbox.readdress([A]) == 1
    deliverer(database, sent).deliver([A])
    assert sent.told == [("a", "test/x#1")]
    assert outbox.readdress([A]) == 0


def test_two_at_once_send_nothing_twice(database: Database, settings: Settings, outbox: Outbox, sent: Sent) -> None:
    names = {f"x{number}": signal() for number in range(30)}
    outbox.update([reading(**names)], [A])
    with closing(Database(settings)) as other:
        both = [threading.Thread(target=deliverer(one, sent).deliver, args=([A],)) for one in (database, other)]
        for one in both:
            one.start()
        for one in both:
            one.join()
    told = expanded(database, sent.said)
    assert told == Counter(f"test/{name}#1" for name in names)


def test_what_was_sent_and_could_not_be_marked_is_not_sent_again(
    database: Database, outbox: Outbox, sent: Sent
) -> None:
    outbox.update([reading(x=signal())], [A])

    def send_and_lose_the_database(target: Target, message: Message) -> None:
        sent.send(target, message)
        with database.engine.connect() as killer:
            killer.execute(text("select pg_terminate_backend(pid) from pg_stat_activity "
                                "where datname = current_database() and pid <> pg_backend_pid()"))  # fmt: skip

    sender = Deliverer(database, threading.Event(), send_and_lose_the_database)
    with pytest.raises(DatabaseUnavailable):
        sender.deliver([A])
    assert [one.delivered_at for one in rows(database, deliveries)] == [None]
    sender.deliver([A])
    assert sent.told == [("a", "test/x#1")]
    assert [one.delivered_at is None for one in rows(database, deliveries)] == [False]


def test_history_is_kept_for_a_time_and_longer_while_something_waits(
    database: Database, outbox: Outbox, sent: Sent
) -> None:
    outbox.update([reading(x=signal(), y=signal("warning"))], [A, B])
    outbox.update([reading(z=signal())], [A, B])
    sent.down = {"b"}
    for _ in range(3):
        deliverer(database, sent).deliver([A, B])
    with database.begin() as connection:
        connection.execute(update(incidents).values(resolved_at=incidents.c.resolved_at - timedelta(days=91)))
    assert outbox.prune() == 1
    assert [one.key for one in rows(database, incidents)] == ["test/x", "test/z"]


def test_one_incident_whole(database: Database, outbox: Outbox, sent: Sent) -> None:
    outbox.update([reading(x=signal())], [A])
    deliverer(database, sent).deliver([A])
    found = show_incident(database, "test/x", LINKS)
    assert found["dagster"] == "http://dagster.example:3000/runs/r1"
    assert found["runbook"] == "https://docs.example/runbooks/run.md"
    ((told,),) = (found["told"],)
    assert told["to"][0]["delivered_at"] is not None
    assert told["body"].splitlines() == [
        "it broke",
        "What to do: Mend it.",
        "Runbook: https://docs.example/runbooks/run.md",
        "Dagster: http://dagster.example:3000/runs/r1",
        "Incident: test/x#1",
    ]
    with pytest.raises(QueryRefused, match="no incident 'test/y'"):
        show_incident(database, "test/y", LINKS)


def test_a_receiver_that_is_down_for_a_while_gets_everything_in_the_end(
    database: Database, outbox: Outbox, receiver: Receiver
) -> None:
    with receiving() as gone:
        pass
    (target,) = parse_targets(gone.url)
    outbox.update([reading(x=signal(), y=signal())], [target])
    sender = Deliverer(database, threading.Event())
    assert sender.deliver([target]).silent == {target.name}
    outbox.update([reading(x=signal())], [target])
    with receiving(int(gone.url.rsplit(":", 1)[1].strip("/"))) as back:
        back.status = 503
        make_due(database)
        assert sender.deliver([target]).failed == 1
        back.status = 200
        make_due(database)
        sender.deliver([target])
        assert back.identities == ["test/x#1", "test/y#1", "test/y#2"]
        assert back.titles[2].startswith("Resolved: [error]")
