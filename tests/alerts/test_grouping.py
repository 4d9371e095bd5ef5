"""Many incidents of a kind are one message, each with a row of its own, and none is lost when the process is killed."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select, text

from k2_dagster.alerts.delivery import MOST_ATTEMPTS, Deliverer
from k2_dagster.alerts.grouping import GROUP_LEAST, kind_of
from k2_dagster.alerts.listing import retry_deliveries, show_incident
from k2_dagster.alerts.messages import MEMBERS_NAMED, Message, together
from k2_dagster.alerts.outbox import Outbox
from k2_dagster.alerts.signals import Reading, Signal
from k2_dagster.alerts.targets import Target, parse_targets
from k2_dagster.errors import DatabaseUnavailable
from k2_dagster.observability.points import ALERT_POINTS
from k2_dagster.settings import Settings, as_environment
from k2_dagster.state.database import Database
from k2_dagster.state.tables import incident_deliveries as deliveries
from tests.alerts.support import LINKS, A, B, Receiver, Sent, deliverer, expanded
from tests.alerts.support import signal as broken
from tests.conftest import REPOSITORY

CHILD_SECONDS = 60.0


def readings(*keys: str) -> list[Reading]:
    """All that is wrong, of a source that tells of everything."""
    signals: dict[str, Signal] = {key: broken(text=f"{key} broke") for key in keys}
    return [Reading("test", tuple({f"{key.split('/')[0]}/" for key in (*keys, "stream/", "lag/")}), signals)]


STREAMS = tuple(f"stream/x/{number:02}" for number in range(30))


def window_passes(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(text("update k2.incident_deliveries set delivered_at = delivered_at - interval '1 minute'"))


def undelivered(database: Database) -> int:
    with database.begin() as connection:
        query = select(func.count()).select_from(deliveries).where(deliveries.c.delivered_at.is_(None))
        return int(connection.execute(query).scalar_one())


@pytest.mark.stack
def test_what_opens_together_is_one_message_and_so_is_its_end(database: Database, outbox: Outbox, sent: Sent) -> None:
    told = outbox.update(readings(*STREAMS, "lag/x/ticks"), [A, B])
    assert len(told) == 31
    sender = deliverer(database, sent)
    done = sender.deliver([A, B])
    assert (done.sent, done.failed, undelivered(database)) == (4, 0, 0)
    (message,) = [one for one in sent.messages if one.key != "lag/x/ticks"][:1]
    assert message.title == "[error] Something broke (and 29 more of stream)"
    lines = message.body.splitlines()
    assert lines[0] == "30 incidents of stream, opened:"
    assert [line.split(":")[0] for line in lines[1:6]] == [f"- {key}" for key in STREAMS[:MEMBERS_NAMED]]
    assert lines[6].startswith("- and 25 more")
    assert "What to do: Mend it." in lines
    group = lines[-1]
    assert group.startswith("Incident: stream/x/00#1 and 29 more (group ")
    # each has its own row, which names the group
    found = show_incident(database, STREAMS[7], LINKS)
    groups = {one["to"][0]["told_with"] for one in found["told"]} | {one["to"][1]["told_with"] for one in found["told"]}
    assert {f"(group {one})" for one in groups} == {
        one.body[one.body.rindex("(") :] for one in sent.messages if one.key != "lag/x/ticks"
    }
    sent.messages.clear()
    outbox.update(readings("lag/x/ticks"), [A])
    sender.deliver([A])
    (ended,) = sent.messages
    assert ended.title == "Resolved: [error] Something broke (and 29 more of stream)"
    assert expanded(database, [ended.body.rsplit("Incident: ", 1)[1]]) == Counter(f"{key}#2" for key in STREAMS)


@pytest.mark.stack
def test_what_opens_one_after_another_waits_for_the_window_and_is_told_together(
    database: Database, outbox: Outbox, sent: Sent
) -> None:
    sender = deliverer(database, sent)
    outbox.update(readings(*STREAMS[:1]), [A])
    assert sender.deliver([A]).sent == 1
    for count in range(2, 6):
        outbox.update(readings(*STREAMS[:count], "lag/x/ticks"), [A])
        sender.deliver([A])
    # another kind waits for nobody
    assert [one.identity for one in sent.messages] == ["stream/x/00#1", "lag/x/ticks#1"]
    window_passes(database)
    assert sender.deliver([A]).sent == 1
    assert sent.messages[-1].title.endswith("(and 3 more of stream)")
    assert undelivered(database) == 0


@pytest.mark.stack
def test_fewer_than_three_and_other_severities_are_messages_of_their_own(
    database: Database, outbox: Outbox, sent: Sent
) -> None:
    found = {key: broken("warning") for key in STREAMS[: GROUP_LEAST - 1]}
    found |= {key: broken("error") for key in STREAMS[GROUP_LEAST - 1 : 2 * GROUP_LEAST - 2]}
    outbox.update([Reading("test", ("stream/",), found)], [A])
    assert deliverer(database, sent).deliver([A]).sent == 2 * (GROUP_LEAST - 1)
    assert [one.identity for one in sent.messages] == [f"{key}#1" for key in found]


@pytest.mark.stack
def test_what_was_sent_and_could_not_be_marked_is_no_member(database: Database, outbox: Outbox, sent: Sent) -> None:
    """A group that is told would tell it again, and one that is only marked would lose the others."""
    lose = [True]

    def send(target: Target, message: Message) -> None:
        sent.send(target, message)
        if lose.pop() if lose else False:
            with database.engine.connect() as killer:
                killer.execute(text("select pg_terminate_backend(pid) from pg_stat_activity "
                                    "where datname = current_database() and pid <> pg_backend_pid()"))  # fmt: skip

    sender = Deliverer(database, threading.Event(), send, window_seconds=0.0)
    outbox.update(readings(STREAMS[1]), [A])
    with pytest.raises(DatabaseUnavailable):
        sender.deliver([A])
    outbox.update(readings(*STREAMS[:4]), [A])
    sender.deliver([A])
    assert undelivered(database) == 0
    assert expanded(database, sent.said) == Counter(f"{key}#1" for key in STREAMS[:4])
    assert len(sent.messages) == 2


@pytest.mark.stack
def test_nothing_waits_longer_than_the_window(database: Database, outbox: Outbox, sent: Sent) -> None:
    """Also where too few came for a group, and one of them was told just now."""
    sender = deliverer(database, sent)
    for count in range(1, 4):
        outbox.update(readings(*STREAMS[:count]), [A])
        sender.deliver([A])
    assert len(sent.messages) == 1
    with database.begin() as connection:
        connection.execute(text("update k2.incident_transitions set at = at - interval '1 minute'"))
    sender.deliver([A])
    assert [one.identity for one in sent.messages] == [f"{key}#1" for key in STREAMS[:3]]


@pytest.mark.stack
def test_a_group_that_was_given_up_is_taken_up_as_a_whole(database: Database, outbox: Outbox, sent: Sent) -> None:
    sent.down = {"a"}
    outbox.update(readings(*STREAMS[:5]), [A])
    sender = deliverer(database, sent)
    assert sender.deliver([A]).failed == 1
    with database.begin() as connection:
        connection.execute(text("update k2.incident_deliveries set next_at = now(), attempts = :most"),
                           {"most": MOST_ATTEMPTS - 1})  # fmt: skip
    assert sender.deliver([A]).failed == 1
    sent.down = set()
    assert sender.deliver([A]).sent == 0
    assert retry_deliveries(database, STREAMS[3]) == 5
    assert sender.deliver([A]).sent == 1
    assert undelivered(database) == 0


@pytest.mark.stack
@pytest.mark.parametrize("point", ALERT_POINTS)
def test_killed_at_any_point_the_group_is_told_with_the_same_members_and_words(
    database: Database, outbox: Outbox, receiver: Receiver, settings: Settings, point: str
) -> None:
    targets = parse_targets(receiver.url)
    outbox.update(readings(*STREAMS[:5]), targets)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("K2_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.alerts.killed_delivery", point, receiver.url],
        env=environment | as_environment(settings), cwd=REPOSITORY, capture_output=True, timeout=CHILD_SECONDS,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    # what opens meanwhile is no member of it
    outbox.update(readings(*STREAMS[:9]), targets)
    sender = Deliverer(database, threading.Event())
    sender.deliver(targets)
    window_passes(database)
    sender.deliver(targets)
    assert undelivered(database) == 0
    first, *again, rest = receiver.got
    assert again == ([first] if point == "alerts.sent" else [])
    identities = [one["message"].rsplit("Incident: ", 1)[1] for one in (first, rest)]
    assert expanded(database, identities) == Counter(f"{key}#1" for key in STREAMS[:9])


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("stream/binance/ticks", "stream"),
        ("daemon/all", "daemon"),
        ("check/ticks/times/x|2026-03-01", "check/ticks/times"),
        ("check/ticks", "check"),
        ("test", "test"),
    ],
)
def test_of_one_kind_are_a_check_or_what_begins_alike(key: str, kind: str) -> None:
    assert kind_of(key) == kind


@given(st.integers(2, 40))
def test_a_message_of_many_stays_short_and_counts_them(count: int) -> None:
    told = [
        Message(f"k/{one}", 1, "opened", "error", "[error] x " * 50, f"text\nIncident: k/{one}#1")
        for one in range(count)
    ]
    found = together(told, "k", 7)
    assert found.body.splitlines()[0] == f"{count} incidents of k, opened:"
    assert found.body.splitlines()[-1] == f"Incident: k/0#1 and {count - 1} more (group 7)"
    assert len(found.body) < 1_500
