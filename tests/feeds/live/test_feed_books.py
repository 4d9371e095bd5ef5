"""Books of a live feed: a venue on this machine that loses, repeats and damages, and what is on record of it."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from k2_dagster.feeds.live.report import FeedReport
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from tests.feeds.conftest import Read
from tests.feeds.live.feeding import AT_ONCE, depth, plan_of, profiles_of, rows_of, run_until, snapshot
from tests.feeds.live.support import WAIT_SECONDS, Peer, acknowledged, greet, local_snapshots, local_venue

pytestmark = pytest.mark.stack
ReadTopic = Callable[[str], list[Read]]


def test_a_hole_in_the_updates_of_a_book_asks_for_a_snapshot(
    settings: Settings, tmp_path: Path, read_topic: ReadTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k2_dagster.feeds.live.fetching.BETWEEN_SECONDS", 0.01)
    monkeypatch.setattr("k2_dagster.feeds.live.asking.ANSWER_SECONDS", 0.1)
    monkeypatch.setattr("k2_dagster.feeds.live.asking.PACE", AT_ONCE)
    whole = threading.Event()
    # The first is too old, the second an error, the third fits; those after come behind the hole
    answers = [snapshot(4), (503, b"busy"), snapshot(11)]

    def script(peer: Peer) -> None:
        greet(peer, 1)
        peer.say(depth(10, 11), depth(12, 13))
        assert whole.wait(WAIT_SECONDS)
        peer.say(depth(20, 22), depth(23, 24))
        peer.stay()

    def done(report: FeedReport) -> bool:
        if report.snapshots == 2 and not report.books_waiting:
            whole.set()
        return report.snapshots >= 3 and not report.books_waiting

    profiles, name = profiles_of(settings, tmp_path, "binance")
    with (
        local_venue(script) as venue,
        local_snapshots(lambda _, place: answers[place] if place < 3 else snapshot(30)) as snapshots,
    ):
        report = run_until(settings, profiles, plan_of("binance", "BTCUSDT", name, venue, snapshot_url=snapshots), done)
    assert (report.snapshot_failures, report.books_lost) == (1, 1)
    control = rows_of(read_topic(topic_name("control", name)), "control")
    told = [(row["dataset"], row["stream"], row["symbol"], row["state"]) for row in control if row["kind"] == "session"]
    assert told == [("book", "depth", "BTCUSDT", state) for state in ("started", "ended", "started")]
    reasons = [row["reason"] for row in control if row["kind"] == "session"]
    assert reasons[1] == "the update after 13 says that it follows 19; a snapshot is asked for"


def test_a_checksum_that_is_wrong_subscribes_the_book_anew(
    settings: Settings, tmp_path: Path, read_topic: ReadTopic
) -> None:
    def level(price: str) -> list[str]:
        return [price, "1.00000000", "1582905486.493008"]

    def book(**payload: object) -> list[object]:
        return [1, payload, "book-100", "XBT/USD"]

    whole = book(**{"as": [level("2.0")], "bs": [level("1.0")]})

    def script(peer: Peer) -> None:
        greet(peer, 3)
        peer.say(whole, book(a=[level("3.0")], c="1"))
        greet(peer, 2)
        peer.say(whole)
        peer.stay()

    profiles, name = profiles_of(settings, tmp_path, "kraken")
    with local_venue(script) as venue:
        plan = plan_of("kraken", "XBT/USD", name, venue)
        report = run_until(settings, profiles, plan, lambda one: one.rows["book"] == 3 and not one.books_waiting)
    assert report.connections == 1
    asked = [(one["event"], one["pair"], one["subscription"]["name"]) for one in venue.heard[0][3:]]
    assert asked == [("unsubscribe", ["XBT/USD"], "book"), ("subscribe", ["XBT/USD"], "book")]
    control = rows_of(read_topic(topic_name("control", name)), "control")
    told = [(row["symbol"], row["state"]) for row in control if row["kind"] == "session"]
    assert told == [("XBT/USD", state) for state in ("started", "ended", "started")]


def test_everything_twice_is_no_loss(settings: Settings, tmp_path: Path, read_topic: ReadTopic) -> None:
    whole = {
        "feed": "book_snapshot", "product_id": "PI_XBTUSD", "timestamp": 1_626_994_927_000, "seq": 7,
        "bids": [{"price": 1.5, "qty": 2}], "asks": [],
    }  # fmt: skip
    changes = [
        {"feed": "book", "product_id": "PI_XBTUSD", "timestamp": 1_626_994_927_000, "seq": seq, "side": "buy",
         "price": 1.5, "qty": seq}
        for seq in range(8, 20)
    ]  # fmt: skip
    profiles, name = profiles_of(settings, tmp_path, "kraken_futures")

    def script(peer: Peer) -> None:
        for _ in range(4):
            peer.say(*acknowledged(peer.hear()) * 2)
        peer.say(whole, whole, *(change for change in changes for _ in range(2)))
        peer.stay()

    with local_venue(script) as venue:
        plan = plan_of("kraken_futures", "PI_XBTUSD", name, venue)
        report = run_until(settings, profiles, plan, lambda one: one.rows["book"] == 2 + 2 * len(changes))
    assert (report.books_lost, report.books_waiting, report.connections) == (0, 0, 1)
    control = rows_of(read_topic(topic_name("control", name)), "control")
    assert [row["state"] for row in control if row["kind"] == "session"] == ["started"]
