"""From a venue's websocket to the tables, and what the independent proof says of them."""

from collections import Counter
from pathlib import Path

import pytest

from k2_dagster.settings import Settings
from k2_dagster.verify.proof import verify
from tests.feeds.landing import Venue
from tests.feeds.live.feeding import depth, plan_of, run_until, trade
from tests.feeds.live.support import Peer, greet, local_venue

pytestmark = pytest.mark.stack
# Behind a hole, so that its grace has passed.
GRACE = 25


def test_what_was_fed_lands_once_with_its_gap_and_is_proved(settings: Settings, tmp_path: Path) -> None:
    lake = Venue(settings, tmp_path, "binance")
    damaged = trade(5)
    damaged["data"]["p"] = "1.123456789"

    def first(peer: Peer) -> None:
        greet(peer, 1)
        peer.say(trade(1), trade(2), trade(2), b"\xffgarbage", trade(3), depth(10, 12), depth(10, 12), depth(13, 14))
        peer.connection.close(1012, "restart")

    def second(peer: Peer) -> None:
        greet(peer, 1)
        # It says again what was said, then something damaged; 6 to 8 never come
        peer.say(trade(3), trade(4), damaged, depth(13, 14), depth(15, 15))
        peer.say(*(trade(number) for number in range(9, 9 + GRACE)))
        peer.stay()

    with local_venue(first, second) as venue:
        plan = plan_of("binance", "BTCUSDT", lake.name, venue)
        report = run_until(lake.settings, lake.profiles, plan, lambda one: one.rows["ticks"] == 6 + GRACE)
    lake.land()
    assert report.refused == 2
    assert sorted(row["sequence"] for row in lake.rows("ticks")) == [1, 2, 3, 4, *range(9, 9 + GRACE)]
    assert sorted(row["sequence"] for row in lake.rows("book")) == [12, 14, 15]
    assert lake.reasons() == {"duplicate": 4, "refused_by_feed": 2}
    assert [tuple(one) for one in lake.gaps()] == [(6, 8)]
    states = Counter((row["kind"], row["state"]) for row in lake.rows("control"))
    assert states["connection", "connected"] == states["connection", "disconnected"] == 8
    assert list(verify(lake.settings, exchanges=[lake.name], all_values=True).findings()) == []


def test_a_snapshot_after_a_reconnect_lands_though_its_number_has_landed_as_a_change(
    settings: Settings, tmp_path: Path
) -> None:
    """Number 13 is lost, 14 comes, the line breaks; the next snapshot is of 14, because nothing has changed since."""
    lake = Venue(settings, tmp_path, "kraken_futures")

    def change(number: int) -> dict[str, object]:
        told = {"feed": "book", "product_id": "PI_XBTUSD", "side": "buy", "price": 1.5, "qty": number}
        return {**told, "seq": number, "timestamp": 1_723_161_255_000 + number}

    def whole(number: int) -> dict[str, object]:
        told = {"feed": "book_snapshot", "product_id": "PI_XBTUSD", "bids": [{"price": 1.5, "qty": 9}], "asks": []}
        return {**told, "seq": number, "timestamp": 1_723_161_255_000 + number}

    def first(peer: Peer) -> None:
        greet(peer, 4)
        peer.say(whole(11), change(12), change(14))
        peer.connection.close(1012, "restart")

    def second(peer: Peer) -> None:
        greet(peer, 4)
        peer.say(whole(14), *(change(number) for number in range(15, 15 + GRACE)))
        peer.stay()

    with local_venue(first, second) as venue:
        plan = plan_of("kraken_futures", "PI_XBTUSD", lake.name, venue)
        run_until(lake.settings, lake.profiles, plan, lambda one: one.rows["book"] == 4 + GRACE)
    lake.land()
    rows = lake.rows("book")
    assert sorted(row["sequence"] for row in rows if row["action"] == "snapshot") == [11, 14]
    assert sorted(row["sequence"] for row in rows if row["action"] == "delta") == [12, *range(14, 15 + GRACE)]
    assert lake.reasons() == {}
    assert [tuple(one) for one in lake.gaps()] == [(13, 13)]
    assert list(verify(lake.settings, exchanges=[lake.name], all_values=True).findings()) == []
