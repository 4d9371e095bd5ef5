"""A live feed end to end: a venue on this machine, the real Kafka, what a reader of the topics finds."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from k2_dagster.errors import SubscriptionRefused, VenueUnavailable
from k2_dagster.feeds.live.intake import Intake
from k2_dagster.feeds.live.venues import VENUES
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from tests.feeds.conftest import Read
from tests.feeds.live.feeding import depth, plan_of, profiles_of, rows_of, run_until, snapshot, trade
from tests.feeds.live.support import (
    Peer,
    Script,
    acknowledged,
    greet,
    local_snapshots,
    local_venue,
    saying,
)

ReadTopic = Callable[[str], list[Read]]


@pytest.mark.stack
def test_what_a_venue_sends_is_on_its_topics(settings: Settings, tmp_path: Path, read_topic: ReadTopic) -> None:
    profiles, name = profiles_of(settings, tmp_path, "binance")
    frames = [trade(1), depth(10, 12), trade(2), depth(13, 15), b"\xff\x00damage", depth(16, 16)]
    with local_venue(saying(frames)) as venue, local_snapshots(lambda *_: snapshot(12)) as snapshots:
        plan = plan_of("binance", "BTCUSDT", name, venue, snapshot_url=snapshots)
        report = run_until(settings, profiles, plan, lambda one: one.rows["book"] == 4 and one.refused == 1)
    assert (report.rows["ticks"], report.rows["book"], report.refused, report.books_lost) == (2, 4, 1, 0)
    assert report.stopped
    (request,) = venue.heard[0]
    assert request["params"] == ["btcusdt@trade", "btcusdt@bookTicker", "btcusdt@depth@100ms"]
    ticks = rows_of(read_topic(topic_name("ticks", name)), "ticks")
    assert [(row["sequence"], row["publisher_sequence"]) for row in ticks] == [(1, 1), (2, 2)]
    assert {row["publisher_session"] for row in ticks} == {report.last[0].publisher_session}
    (damaged,) = [one for one in read_topic(topic_name("control", name)) if one.headers]
    assert damaged.value.endswith(b" \xff\x00damage")
    control = rows_of(read_topic(topic_name("control", name)), "control")
    told = [(row["kind"], row["state"], row["symbol"]) for row in control]
    assert told[:4] == [("connection", "connected", "*")] * 4
    assert told[-4:] == [("connection", "disconnected", "*")] * 4
    assert ("session", "started", "BTCUSDT") in told
    assert {row["reason"] for row in control[-4:]} == {"the feed was stopped"}


@pytest.mark.stack
def test_a_lost_connection_is_made_anew_in_another_session_and_on_record(
    settings: Settings, tmp_path: Path, read_topic: ReadTopic
) -> None:
    def breaks(peer: Peer) -> None:
        greet(peer, 1)
        peer.say(trade(1), trade(2))
        peer.connection.close(1011, "maintenance")

    def cut(peer: Peer) -> None:
        greet(peer, 1)
        peer.say(trade(2), trade(3))
        peer.connection.socket.shutdown(2)

    profiles, name = profiles_of(settings, tmp_path, "binance")
    with local_venue(breaks, cut, saying([trade(5)])) as venue:
        plan = plan_of("binance", "BTCUSDT", name, venue)
        report = run_until(settings, profiles, plan, lambda one: one.rows["ticks"] == 5)
    assert report.connections == 3
    ticks = rows_of(read_topic(topic_name("ticks", name)), "ticks")
    assert [(row["sequence"], row["publisher_sequence"]) for row in ticks] == [(1, 1), (2, 2), (2, 1), (3, 2), (5, 1)]
    control = rows_of(read_topic(topic_name("control", name)), "control")
    trades = [row for row in control if row["stream"] == "trade"]
    assert [row["state"] for row in trades] == ["connected", "disconnected"] * 3
    assert trades[1]["reason"] == "the venue closed it with code 1011 (maintenance)"
    assert trades[3]["reason"] == "the line broke"
    assert [row["publisher_session"][-1] for row in trades] == list("112233")


@pytest.mark.stack
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Peer.stay, "no acknowledgement within 0.3 s of trade BTCUSDT"),
        (lambda peer: peer.connection.close(1008, "go away"), r"code 1008 \(go away\)"),
        (lambda peer: peer.say("[1,2", b"\x00"), "no acknowledgement|the venue closed it with code 1000"),
    ],
    ids=["never answers", "closes with an error", "garbage"],
)
def test_a_venue_that_gives_nothing_is_given_up(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Script, reason: str
) -> None:
    monkeypatch.setattr("k2_dagster.feeds.live.conversation.ACKNOWLEDGE_SECONDS", 0.3)
    profiles, name = profiles_of(settings, tmp_path, "binance")
    with local_venue(script) as venue, pytest.raises(VenueUnavailable, match=f"in 5 tries; the last: .*{reason}"):
        run_until(settings, profiles, plan_of("binance", "BTCUSDT", name, venue), lambda _: False)
    assert len(venue.heard) == 5


@pytest.mark.stack
def test_silence_is_probed_and_then_the_connection_is_given_up(settings: Settings, tmp_path: Path) -> None:
    profiles, name = profiles_of(settings, tmp_path, "binance")
    venue_of = replace(VENUES["binance"], silence_seconds=0.4)
    with local_venue(saying([trade(1)])) as venue:
        plan = plan_of("binance", "BTCUSDT", name, venue, venue=venue_of)
        report = run_until(settings, profiles, plan, lambda one: one.connections == 2)
    assert report.last[0].ended.startswith("nothing came for ")
    methods = [message["method"] for message in venue.heard[0]]
    # The first frame may be late on a busy machine: then it is asked twice
    assert methods[0] == "SUBSCRIBE"
    assert set(methods[1:]) == {"LIST_SUBSCRIPTIONS"}


@pytest.mark.stack
def test_slow_frames_are_no_silence(settings: Settings, tmp_path: Path) -> None:
    pause = threading.Event()

    def script(peer: Peer) -> None:
        greet(peer, 1)
        # Longer in all than silence may be
        for number in range(10):
            pause.wait(0.5)
            peer.connection.send([json.dumps(trade(number))[:20], json.dumps(trade(number))[20:]])
        peer.stay()

    profiles, name = profiles_of(settings, tmp_path, "binance")
    venue_of = replace(VENUES["binance"], silence_seconds=2.0)
    with local_venue(script) as venue:
        plan = plan_of("binance", "BTCUSDT", name, venue, venue=venue_of)
        report = run_until(settings, profiles, plan, lambda one: one.rows["ticks"] == 10)
    assert report.connections == 1


@pytest.mark.stack
def test_a_symbol_that_the_venue_does_not_know_ends_the_feed_with_its_words(settings: Settings, tmp_path: Path) -> None:
    def refuses(peer: Peer) -> None:
        peer.hear()
        peer.say({"type": "error", "message": "Failed to subscribe", "reason": "FOO-BAR is not a valid product"})
        peer.stay()

    profiles, name = profiles_of(settings, tmp_path, "coinbase")
    with (
        local_venue(refuses) as venue,
        pytest.raises(SubscriptionRefused, match=r"matches FOO-BAR, .*FOO-BAR is not a valid product"),
    ):
        run_until(settings, profiles, plan_of("coinbase", "BTC-USD,FOO-BAR", name, venue), lambda _: False)


@pytest.mark.stack
def test_a_full_queue_holds_the_venue_back_and_loses_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k2_dagster.feeds.live.feed.Intake", lambda: Intake(frames=50))
    profiles, name = profiles_of(settings, tmp_path, "binance")
    with local_venue(saying([trade(number) for number in range(2_000)])) as venue:
        plan = plan_of("binance", "BTCUSDT", name, venue)
        report = run_until(settings, profiles, plan, lambda one: one.rows["ticks"] == 2_000)
    # Two are taken at a time, with what is put beside the queue: requests, and the beginning
    assert report.most_queued <= 110
    assert report.connections == 1


@pytest.mark.stack
def test_streams_with_nothing_to_say_tell_that_they_are_alive(
    settings: Settings, tmp_path: Path, read_topic: ReadTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k2_dagster.feeds.live.serving.HEARTBEAT_SECONDS", 0.3)
    profiles, name = profiles_of(settings, tmp_path, "binance")

    def script(peer: Peer) -> None:
        greet(peer, 1)
        for number in range(100_000):
            peer.say(trade(number))
            time.sleep(0.05)

    with local_venue(script) as venue:
        plan = plan_of("binance", "BTCUSDT", name, venue)
        run_until(settings, profiles, plan, lambda one: one.rows["control"] >= 10)
    control = rows_of(read_topic(topic_name("control", name)), "control")
    alive = {row["stream"] for row in control if row["kind"] == "heartbeat"}
    assert alive == {"bookTicker", "depth", "depth_snapshot"}


@pytest.mark.stack
def test_the_clocks_difference_is_told_of_each_connection(settings: Settings, tmp_path: Path) -> None:
    profiles, name = profiles_of(settings, tmp_path, "binance")
    # The venue's clock is an hour ahead
    now = int(time.time() * 1000) + 3_600_000
    frames = [trade(number) for number in range(10)]
    for frame in frames:
        frame["data"]["T"] = now
    with local_venue(saying(frames)) as venue:
        plan = plan_of("binance", "BTCUSDT", name, venue)
        report = run_until(settings, profiles, plan, lambda one: one.rows["ticks"] == 10)
    skew = report.last[0].skew
    assert skew is not None
    assert skew.rows == 10
    assert -3_600_000 <= skew.least_milliseconds <= skew.median_milliseconds < -3_590_000


@pytest.mark.stack
def test_a_symbol_that_the_venue_never_mentions_does_not_end_in_a_feed_without_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k2_dagster.feeds.live.conversation.ACKNOWLEDGE_SECONDS", 0.3)

    def script(peer: Peer) -> None:
        for _ in range(3):
            request = peer.hear()
            peer.say(*acknowledged(request | {"pair": [*request["pair"][:1], "XBT/EUR"]}))
        peer.stay()

    profiles, name = profiles_of(settings, tmp_path, "kraken")
    with (
        local_venue(script) as venue,
        pytest.raises(VenueUnavailable, match=r"in 5 tries; the last: no acknowledgement .* of trade BTC/EUR, spread"),
    ):
        run_until(settings, profiles, plan_of("kraken", "XBT/USD,BTC/EUR", name, venue), lambda _: False)
