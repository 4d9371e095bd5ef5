"""Gaps of a channel that many symbols share: rows of any, each once however often they are recovered."""

from collections import Counter
from collections.abc import Iterable
from threading import Event

import pyarrow as pa
import pytest

from k2_dagster.feeds.handler import FeedHandler
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.feeds.recovery.source import MissingRange, Recovered
from k2_dagster.ingest.drain import drain_exchange
from k2_dagster.ingest.recent import MAX_RECENT
from k2_dagster.verify.proof import verify
from tests.coverage.test_on_stack import tell
from tests.feeds.recovery.conftest import MakeRecoverable, Recoverable
from tests.feeds.recovery.faking import tick_rows

pytestmark = pytest.mark.stack


class ChannelSource:
    """Gives the numbers of a channel, of two symbols in turn; fewer than asked for where `until` says so."""

    def __init__(self, until: int = 10**9, exhausted: bool = True) -> None:
        self.asked: list[MissingRange] = []
        self._until = until
        self._exhausted = exhausted

    def fetch(self, missing: MissingRange) -> Recovered:
        self.asked.append(missing)
        numbers = range(missing.first, min(missing.last, self._until) + 1)
        parts = [
            tick_rows(missing.exchange, [one], "AB"[one % 2], session=missing.session, channel=missing.channel)
            for one in numbers
        ]
        rows = pa.Table.from_batches(parts).combine_chunks().to_batches()[0] if parts else tick_rows("x", [])
        return Recovered({"ticks": rows}, exhausted=self._exhausted, reason="the history is short")

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def channel(make_recoverable: MakeRecoverable) -> Recoverable:
    """An exchange whose feed handler has told that 21 to 40 of channel 7 are missing."""
    exchange = make_recoverable(domain="channel")
    tell(exchange, {"kind": "gap", "channel": "7", "session": "s", "first_sequence": 21, "last_sequence": 40})
    return exchange


def recovered_twice(exchange: Recoverable, source: ChannelSource) -> None:
    """As if the first worker had been killed before it could say how the request ended."""
    exchange.work_once(source)
    with exchange.database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM k2.gap_events WHERE event <> 'request'")
        connection.exec_driver_sql("UPDATE k2.gaps SET state = 'requested'")
        connection.exec_driver_sql("UPDATE k2.cursors SET position = 0 WHERE reader LIKE 'recovery:%%'")
    exchange.work_once(source)
    exchange.drain()


def test_each_message_lands_once(channel: Recoverable) -> None:
    source = ChannelSource()
    recovered_twice(channel, source)
    assert [(one.first, one.last, one.symbol, one.channel, one.session) for one in source.asked] == [
        (21, 40, "", "7", "s")
    ] * 2
    rows = channel.landed()
    assert sorted((row["sequence"], row["symbol"], row["origin"]) for row in rows) == [
        (one, "AB"[one % 2], "recovered") for one in range(21, 41)
    ]
    reasons = Counter(row["reason"] for row in channel.landed("quarantine") if row["dataset"] == "ticks")
    assert reasons == {"duplicate": 20}


def test_what_came_fills_the_gap_of_the_channel(channel: Recoverable) -> None:
    """Twice told, as after a kill, each number counts once."""
    recovered_twice(channel, ChannelSource(until=30))
    drain_exchange(
        channel.settings, channel.profiles, channel.name, datasets=["control"], cap_seconds=60.0, stop=Event()
    )
    gap = channel.gap()
    assert (gap["filled"], gap["state"]) == (10, "expired")
    channel.k2("gaps", "request", str(gap["id"]))
    channel.work_once(ChannelSource())
    drain_exchange(
        channel.settings, channel.profiles, channel.name, datasets=["control"], cap_seconds=60.0, stop=Event()
    )
    gap = channel.gap()
    assert (gap["filled"], gap["state"]) == (20, "filled")


def test_a_part_that_more_may_come_of_is_not_published(channel: Recoverable) -> None:
    """What its numbers would be is not known before the rest is."""
    report = channel.recover(ChannelSource(until=30, exhausted=False))
    assert (report.published, dict(report.outcomes), channel.sequences()) == (0, {"fail": 1}, [])


def test_the_last_that_there_is_is_published(channel: Recoverable) -> None:
    report = channel.recover(ChannelSource(until=30))
    assert (report.published, dict(report.outcomes), report.expired) == (10, {"refuse": 1}, 1)
    assert channel.sequences() == list(range(21, 31))


def of_channel(exchange: str, numbers: Iterable[int]) -> pa.RecordBatch:
    """Ticks of channel 7, of two symbols in turn."""
    parts = [tick_rows(exchange, [one], "AB"[one % 2], session="s", channel="7") for one in numbers]
    return pa.Table.from_batches(parts).combine_chunks().to_batches()[0]


@pytest.mark.parametrize("feed_is_first", [True, False])
def test_what_the_feed_brings_late_and_recovery_too_lands_once(channel: Recoverable, feed_is_first: bool) -> None:
    """30 and 31 are in the order of their symbols when they come: only the handler knows that they are late. 25 and 26
    are not."""
    settings, profiles, name = channel.settings, channel.profiles, channel.name
    with Publisher(settings, profiles, name, publisher_session="live") as publisher:
        publisher.publish("ticks", of_channel(name, range(1, 21)))
        if not feed_is_first:
            channel.work_once(ChannelSource())
        for late in (range(30, 32), range(25, 27)):
            publisher.publish("ticks", of_channel(name, late), is_behind=True)
        publisher.publish("ticks", of_channel(name, range(41, 61)))
        publisher.flush(30.0)
        if feed_is_first:
            channel.work_once(ChannelSource())
    channel.drain()
    assert channel.sequences() == list(range(1, 61))
    reasons = Counter(row["reason"] for row in channel.landed("quarantine") if row["dataset"] == "ticks")
    assert reasons == {"duplicate": 4}
    origins = Counter(row["origin"] for row in channel.landed())
    assert origins == ({"live": 44, "recovered": 16} if feed_is_first else {"live": 40, "recovered": 20})
    report = verify(settings, datasets=("ticks",), exchanges=(name,), all_values=True)
    assert report.clean, report.as_dict()


def by_a_new_handler(exchange: Recoverable, publisher: Publisher, numbers: Iterable[int]) -> None:
    """As a feed handler that was started again publishes them: it knows nothing of what came before."""
    handler = FeedHandler(publisher, exchange.profiles, exchange.name)
    for one in numbers:
        rows = of_channel(exchange.name, [one])
        handler.observe(rows)
        publisher.publish("ticks", rows, is_behind=bool(handler.behind[0]))
    handler.finish()
    publisher.flush(30.0)


@pytest.mark.parametrize("comes_again", [True, False])
def test_what_had_landed_in_order_lands_once_though_a_restarted_feed_begins_with_an_old_number(
    channel: Recoverable, comes_again: bool
) -> None:
    """25 is of a gap that was told before the restart. The new handler takes it for the beginning: what follows it
    comes again in order, as when the lines' receiver asks for it, or is told as missing and recovered."""
    settings, profiles, name = channel.settings, channel.profiles, channel.name
    with Publisher(settings, profiles, name, publisher_session="live") as publisher:
        publisher.publish("ticks", of_channel(name, [*range(1, 21), *range(41, 61)]))
    channel.drain()
    with Publisher(settings, profiles, name, publisher_session="again") as publisher:
        by_a_new_handler(channel, publisher, [25, *(range(26, 61) if comes_again else ()), *range(61, 66)])
    channel.drain()
    drain_exchange(settings, profiles, name, datasets=["control"], cap_seconds=60.0, stop=Event())
    channel.work_once(ChannelSource())
    channel.drain()
    assert channel.sequences() == list(range(1, 66))
    reasons = Counter(row["reason"] for row in channel.landed("quarantine") if row["dataset"] == "ticks")
    assert reasons == {"duplicate": 36}
    report = verify(settings, datasets=("ticks",), exchanges=(name,), all_values=True)
    assert report.clean, report.as_dict()


def test_what_a_restarted_feed_brings_again_from_long_ago_lands_twice_and_verify_says_so(channel: Recoverable) -> None:
    """The limit of what is remembered, in docs/guarantees.md: so many others of its partition have landed in order."""
    settings, name = channel.settings, channel.name
    later = range(61, 61 + MAX_RECENT - 10)

    def of_one_symbol(*numbers: int) -> pa.RecordBatch:
        return tick_rows(name, numbers, session="s", channel="7")

    with Publisher(settings, channel.profiles, name, publisher_session="live") as publisher:
        publisher.publish("ticks", of_one_symbol(*range(1, 21), *range(41, 61), *later))
    with Publisher(settings, channel.profiles, name, publisher_session="again") as publisher:
        publisher.publish("ticks", of_one_symbol(25, *range(41, 61)))
    channel.drain()
    counts = Counter(channel.sequences())
    assert counts.keys() == {*range(1, 21), 25, *range(41, later.stop)}
    assert {number for number, count in counts.items() if count > 1} == set(range(41, 51)), "51 to 60 are remembered"
    report = verify(settings, datasets=("ticks",), exchanges=(name,), all_values=True)
    assert [(one.fault, one.count) for one in report.findings()] == [("duplicated", 10)]
