"""Messages that come back from quarantine once their cause is mended: each lands once, however often it is sent."""

from collections import Counter
from threading import Event
from typing import Any

import pytest
from confluent_kafka import Producer

from k2_dagster.errors import FenceMoved, RulesDiffer
from k2_dagster.ingest import reprocess
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.reprocess import republish
from k2_dagster.ingest.selection import Selection
from k2_dagster.ingest.stream import StreamDrain
from tests.ingest.conftest import Exchange

pytestmark = pytest.mark.stack

COUNT = 5


def send_again(exchange: Exchange, reason: str) -> int:
    return republish(exchange.settings, exchange.catalog, Selection(exchange=exchange.name, reason=reason))


def landed(exchange: Exchange) -> Counter[str]:
    """Rows by symbol."""
    return Counter(one["symbol"] for one in exchange.landed())


def refused(exchange: Exchange) -> Counter[str]:
    """Quarantine rows by reason."""
    return Counter(one["reason"] for one in exchange.landed("quarantine"))


def publish_other_stream(exchange: Exchange) -> None:
    """One message of each of five symbols, of a stream that the profile does not know, without any number."""
    values = [exchange.tick(f"S{at}", sequence=0, stream="other") for at in range(COUNT)]
    exchange.publish(values[:3], 0)
    exchange.publish(values[3:], 1, key=None)


@pytest.mark.parametrize("domain", ["none", "monotone"])
def test_messages_without_a_number_land_once_however_often_they_are_sent(exchange: Exchange, domain: str) -> None:
    publish_other_stream(exchange)
    exchange.drain()
    assert refused(exchange) == {"stream_unknown": COUNT}
    mended = exchange.with_profile(2, ticks_stream="dense", other=domain)
    assert send_again(exchange, "stream_unknown") == COUNT
    assert send_again(exchange, "stream_unknown") == COUNT
    mended.drain()
    assert send_again(exchange, "stream_unknown") == COUNT
    mended.drain()
    assert landed(exchange) == {f"S{at}": 1 for at in range(COUNT)}
    assert refused(exchange) == {"stream_unknown": COUNT, "duplicate": 2 * COUNT}
    assert {one["origin"] for one in exchange.landed()} == {"reprocessed"}


def test_a_copy_that_is_refused_again_is_still_known_by_where_it_was_first_refused(exchange: Exchange) -> None:
    publish_other_stream(exchange)
    exchange.drain()
    send_again(exchange, "stream_unknown")
    exchange.drain()
    assert send_again(exchange, "stream_unknown") == COUNT  # the newest copy of each
    mended = exchange.with_profile(2, ticks_stream="dense", other="none")
    mended.drain()
    send_again(exchange, "stream_unknown")
    mended.drain()
    assert landed(exchange) == {f"S{at}": 1 for at in range(COUNT)}


def test_copies_go_to_the_partition_that_refused_them_whatever_their_key(exchange: Exchange) -> None:
    """Numbers are judged within a partition: a copy elsewhere would be new there."""
    numbers = range(1, COUNT + 1)
    exchange.publish([exchange.tick("A", sequence=at, stream="other") for at in numbers], 1, key=None)
    exchange.drain()
    mended = exchange.with_profile(2, ticks_stream="dense", other="dense")
    for _ in range(2):
        send_again(exchange, "stream_unknown")
        mended.drain()
    rows = [(one["kafka_partition"], one["sequence"]) for one in exchange.landed()]
    assert rows == [(1, at) for at in numbers]
    assert refused(exchange) == {"stream_unknown": COUNT, "duplicate": COUNT}


def test_killed_half_way_and_run_again_every_message_lands_once(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_other_stream(exchange)
    exchange.drain()
    mended = exchange.with_profile(2, ticks_stream="dense", other="none")

    class Dying(Producer):
        left = 2

        def produce(self, *arguments: Any, **named: Any) -> None:
            if not Dying.left:
                self.flush()
                raise SystemExit("killed")
            Dying.left -= 1
            super().produce(*arguments, **named)

    monkeypatch.setattr(reprocess, "Producer", Dying)
    with pytest.raises(SystemExit):
        send_again(exchange, "stream_unknown")
    monkeypatch.undo()
    mended.drain()
    assert landed(exchange).total() == 2
    send_again(exchange, "stream_unknown")
    mended.drain()
    assert landed(exchange) == {f"S{at}": 1 for at in range(COUNT)}


def test_a_writer_with_the_old_profile_puts_nothing_into_quarantine_that_has_landed_since(exchange: Exchange) -> None:
    """A stops behind its verdict; B, with the mended profile, lands the same messages; A goes on."""
    publish_other_stream(exchange)
    mended = exchange.with_profile(2, ticks_stream="dense", other="none")
    with Connections.open(exchange.settings, exchange.profiles) as connections:
        zombie = StreamDrain(connections, exchange.name, "ticks", "a")
        position = zombie._open()
        raw = zombie.read()
        outcome = zombie.judge(raw, dict(position.starts))
        mended.drain()
        with pytest.raises(FenceMoved):
            zombie.commit(zombie.write(outcome))
        zombie.close()
        with pytest.raises(RulesDiffer, match="start this one again"):
            zombie.drain(Event(), None, lambda _report: None)
    assert landed(exchange) == {f"S{at}": 1 for at in range(COUNT)}
    assert refused(exchange) == {}


def test_what_the_old_writer_quarantined_before_it_was_taken_over_does_not_land_as_well(exchange: Exchange) -> None:
    """A dies between its quarantine commit and its data commit: quarantine has the messages, and keeps them."""
    publish_other_stream(exchange)
    exchange.die_behind_quarantine()
    mended = exchange.with_profile(2, ticks_stream="dense", other="none")
    mended.drain()
    assert landed(exchange) == {}
    assert refused(exchange) == {"stream_unknown": COUNT}
    send_again(exchange, "stream_unknown")
    mended.drain()
    assert landed(exchange) == {f"S{at}": 1 for at in range(COUNT)}
