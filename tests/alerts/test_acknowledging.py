"""What a person says of an incident: on record, told to nobody, and no end to what is told."""

import pytest

from k2_dagster.alerts.listing import list_incidents, show_incident
from k2_dagster.alerts.outbox import Outbox
from k2_dagster.errors import QueryRefused
from k2_dagster.state.database import Database
from tests.alerts.support import LINKS, A, Sent, deliverer, reading, signal

pytestmark = pytest.mark.stack


def test_an_acknowledgement_is_on_record_and_what_follows_is_told(
    database: Database, outbox: Outbox, sent: Sent
) -> None:
    def told() -> list[str]:
        return [f"{one.transition} {one.identity}" for one in sent.messages]

    sender = deliverer(database, sent)
    outbox.update([reading(x=signal("warning"))], [A])
    sender.deliver([A])
    assert outbox.acknowledge("test/x", "ann", "the venue is asked").identity == "test/x#2"
    assert outbox.update([reading(x=signal("warning"))], [A]) == []
    assert outbox.readdress([A]) == 0
    sender.deliver([A])
    assert told() == ["opened test/x#1"]
    (listed,) = list_incidents(database, everything=False, limit=5)
    assert listed["acknowledged_at"] is not None
    assert (listed["waiting"], listed["undelivered"]) == (0, 0)
    noted = show_incident(database, "test/x", LINKS)["told"][1]
    assert noted["transition"] == "acknowledged"
    assert noted["body"].startswith("Acknowledged by ann: the venue is asked")
    outbox.update([reading(x=signal("error"))], [A])
    outbox.update([reading()], [A])
    sender.deliver([A])
    assert told()[1:] == ["worsened test/x#3", "resolved test/x#4"]


def test_an_acknowledgement_ends_with_its_incident(database: Database, outbox: Outbox) -> None:
    with pytest.raises(QueryRefused, match="no incident is open"):
        outbox.acknowledge("test/x", "ann", "nothing is wrong")
    for found in (reading(x=signal()), reading()):
        outbox.update([found], [A])
    with pytest.raises(QueryRefused, match="no incident is open"):
        outbox.acknowledge("test/x", "ann", "too late")
    outbox.update([reading(x=signal())], [A])
    outbox.acknowledge("test/x", "ann", "again")
    outbox.update([reading()], [A])
    outbox.update([reading(x=signal())], [A])
    (listed,) = list_incidents(database, everything=False, limit=5)
    assert listed["acknowledged_at"] is None
