"""A live feed end to end: a venue on this machine, the real Kafka, what a reader of the topics finds."""

import io
import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import pytest

from k2_dagster.errors import SubscriptionRefused, VenueUnavailable
from k2_dagster.feeds.live.backoff import Backoff
from k2_dagster.feeds.live.feed import feed
from k2_dagster.feeds.live.report import FeedReport
from k2_dagster.feeds.live.serving import FeedPlan
from k2_dagster.feeds.live.venues import VENUES
from k2_dagster.kafka.topics import ensure_topics
from k2_dagster.schemas.avro import avro_schema
from k2_dagster.schemas.datasets import dataset_named
from k2_dagster.schemas.profiles import PACKAGED_PROFILES, Profiles, load_profiles
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from tests.feeds.conftest import Read
from tests.feeds.live.support import LocalVenue, Peer, Script, greet, local_snapshots, local_venue, saying

ReadTopic = Callable[[str], list[Read]]
AT_ONCE = Backoff(0.01, 0.01)
NOWHERE = "http://127.0.0.1:9/depth"


def profiles_of(settings: Settings, tmp_path: Path, exchange: str) -> tuple[Profiles, str]:
    """Profiles in which the exchange has a name of this test's own, its topics created."""
    name = f"t_{uuid.uuid4().hex[:10]}"
    path = tmp_path / f"{name}.toml"
    text = PACKAGED_PROFILES.read_text()
    path.write_text(
        text.replace(f"exchanges.{exchange}.", f"exchanges.{name}.").replace(
            f"exchanges.{exchange}]", f"exchanges.{name}]"
        )
    )
    profiles = load_profiles(path)
    ensure_topics(settings, profiles, [name])
    return profiles, name


def rows_of(messages: list[Read], dataset: str) -> list[dict[str, Any]]:
    """Rows of a topic; refused input is left out."""
    schema = avro_schema(dataset_named(dataset))
    return [
        fastavro.schemaless_reader(io.BytesIO(one.value[5:]), schema, None)  # type: ignore[misc]
        for one in messages
        if not one.headers
    ]


def trade(number: int, symbol: str = "BTCUSDT") -> dict[str, Any]:
    """A trade of Binance spot."""
    data = {"e": "trade", "s": symbol, "t": number, "p": "1.5", "q": "2", "T": 1_723_161_255_342, "m": True}
    return {"stream": f"{symbol.lower()}@trade", "data": data}


def depth(first: int, last: int, symbol: str = "BTCUSDT") -> dict[str, Any]:
    """A book update of Binance spot."""
    data = {
        "e": "depthUpdate",
        "E": 1_723_161_255_408,
        "s": symbol,
        "U": first,
        "u": last,
        "b": [["1.5", "2"]],
        "a": [],
    }
    return {"stream": f"{symbol.lower()}@depth@100ms", "data": data}


def snapshot(number: int) -> tuple[int, bytes]:
    """An answer with a book snapshot."""
    return 200, json.dumps({"lastUpdateId": number, "bids": [["1.5", "2"]], "asks": [["1.6", "1"]]}).encode()


def run_until(settings: Settings, profiles: Profiles, plan: FeedPlan, done: Callable[[FeedReport], bool]) -> FeedReport:
    """Feed until a report says that it is enough."""
    stop = threading.Event()

    def look(report: FeedReport) -> None:
        if done(report):
            stop.set()

    # The time is a bound for a test that fails, not how long it runs
    return feed(settings, profiles, replace(plan, seconds=60.0), stop=stop, on_progress=look, reconnect=AT_ONCE)


def plan_of(name: str, symbols: str, exchange: str, local: LocalVenue, **changes: Any) -> FeedPlan:
    """A plan against a local venue."""
    plan = FeedPlan(VENUES[name], tuple(symbols.split(",")), exchange, local.url, NOWHERE)
    return replace(plan, **changes)


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
def test_a_hole_in_the_updates_of_a_book_asks_for_a_snapshot(
    settings: Settings, tmp_path: Path, read_topic: ReadTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k2_dagster.feeds.live.fetching.BETWEEN_SECONDS", 0.01)
    second = threading.Event()

    def answer(_symbol: str, place: int) -> tuple[int, bytes]:
        # The first is too old, the second is an error, the third fits; the fourth comes behind the hole
        answers = [snapshot(4), (503, b"busy"), snapshot(11)]
        if place == 2:
            second.set()
        return answers[place] if place < 3 else snapshot(30)

    def script(peer: Peer) -> None:
        greet(peer, 1)
        peer.say(depth(10, 11), depth(12, 13))
        assert second.wait(20)
        peer.say(depth(20, 22), depth(23, 24))
        peer.stay()

    monkeypatch.setattr("k2_dagster.feeds.live.asking.ANSWER_SECONDS", 0.1)
    monkeypatch.setattr("k2_dagster.feeds.live.asking.PACE", AT_ONCE)
    profiles, name = profiles_of(settings, tmp_path, "binance")
    with local_venue(script) as venue, local_snapshots(answer) as snapshots:
        plan = plan_of("binance", "BTCUSDT", name, venue, snapshot_url=snapshots)
        report = run_until(
            settings, profiles, plan, lambda one: one.books_lost == 1 and one.books_waiting == 0 and one.frames >= 8
        )
    assert report.snapshot_failures == 1
    control = rows_of(read_topic(topic_name("control", name)), "control")
    told = [(row["dataset"], row["stream"], row["symbol"], row["state"]) for row in control if row["kind"] == "session"]
    assert told == [("book", "depth", "BTCUSDT", state) for state in ("started", "ended", "started")]
    reasons = [row["reason"] for row in control if row["kind"] == "session"]
    assert reasons[1] == "the update after 13 says that it follows 19; a snapshot is asked for"


def _silent(peer: Peer) -> None:
    peer.stay()


@pytest.mark.stack
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (_silent, "no acknowledgement within 0.3 s of trade BTCUSDT"),
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
    assert report.last[0].ended == "nothing came for 0.8 s"
    assert [message["method"] for message in venue.heard[0]] == ["SUBSCRIBE", "LIST_SUBSCRIPTIONS"]


@pytest.mark.stack
def test_slow_frames_are_no_silence(settings: Settings, tmp_path: Path) -> None:
    pause = threading.Event()

    def script(peer: Peer) -> None:
        greet(peer, 1)
        for number in range(6):
            pause.wait(0.2)
            peer.connection.send([json.dumps(trade(number))[:20], json.dumps(trade(number))[20:]])
        peer.stay()

    profiles, name = profiles_of(settings, tmp_path, "binance")
    venue_of = replace(VENUES["binance"], silence_seconds=0.5)
    with local_venue(script) as venue:
        plan = plan_of("binance", "BTCUSDT", name, venue, venue=venue_of)
        report = run_until(settings, profiles, plan, lambda one: one.rows["ticks"] == 6)
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
