"""Definitions of a live feed: from a venue's list to the tables, and what becomes of market data without them.

Venue and lists are servers on this machine; the lists are written by hand in the documented forms.
"""

import json
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from k2_dagster.feeds.live.backoff import Backoff
from k2_dagster.feeds.live.feed import feed
from k2_dagster.feeds.live.listings import fetching
from k2_dagster.query.engine import QueryEngine
from k2_dagster.settings import Settings
from k2_dagster.verify.proof import verify
from tests.feeds.capture.listings.answers import ANSWERS, SPOT, binance, body, local_listing, spot_pair
from tests.feeds.landing import Venue
from tests.feeds.live.feeding import plan_of, run_until, trade
from tests.feeds.live.support import local_venue, saying

pytestmark = pytest.mark.stack
REQUESTS = {"binance": 1, "binance_usdm": 1, "binance_coinm": 1, "coinbase": 1, "kraken": 3, "kraken_futures": 4}
SYMBOLS = {
    "binance": "BTCUSDT", "binance_usdm": "BTCUSDT", "binance_coinm": "BTCUSD_PERP", "coinbase": "BTC-USD",
    "kraken": "XBT/USD", "kraken_futures": "PI_XBTUSD",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists come every moment."""
    soon = {"refresh_seconds": 0.05, "retry": Backoff(0.01, 0.01)}
    monkeypatch.setattr(fetching.ListingFetcher.__init__, "__kwdefaults__", soon)


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_what_a_venue_lists_lands_once_and_is_proved(settings: Settings, tmp_path: Path, name: str) -> None:
    lake = Venue(settings, tmp_path, name)
    with (
        local_venue(saying([], REQUESTS[name])) as venue,
        local_listing(lambda _: (200, body(ANSWERS[name]))) as url,
    ):
        plan = plan_of(name, SYMBOLS[name], lake.name, venue, definitions_url=url)
        # Twice the same list: published once
        report = run_until(lake.settings, lake.profiles, plan, lambda one: one.definitions.lists >= 2)
    lake.land()
    rows = lake.rows("instruments")
    assert len(rows) == len({row["symbol"] for row in rows}) == report.definitions.published
    assert report.definitions.known == len(rows) > 0
    assert {(row["kind"], row["stream"], row["publisher_sequence"]) for row in rows} == {
        ("definition", "instruments", 1)
    }
    assert lake.reasons()["refused_by_feed"] == report.definitions.refused == (name == "kraken_futures")
    assert lake.gaps() == []
    assert list(verify(lake.settings, exchanges=[lake.name], all_values=True).findings()) == []


def test_changes_and_withdrawals_are_rows_and_symbols_is_what_holds_now(settings: Settings, tmp_path: Path) -> None:
    lists = [
        SPOT,
        binance(spot_pair("BTC", "USDT", status="HALT"), spot_pair("SOL", "USDT")),
    ]
    lake = Venue(settings, tmp_path, "binance")
    with (
        local_venue(saying([])) as venue,
        local_listing(lambda place: (200, body(lists[min(place, 1)]))) as url,
    ):
        plan = plan_of("binance", "BTCUSDT", lake.name, venue, definitions_url=url)
        report = run_until(lake.settings, lake.profiles, plan, lambda one: one.definitions.lists >= 3)
    assert (report.definitions.published, report.definitions.withdrawn, report.definitions.known) == (4, 1, 2)
    lake.land()
    with closing(QueryEngine(lake.settings)) as engine:
        current = "SELECT symbol, canonical_symbol, kind, status FROM market_data.symbols ORDER BY symbol"
        assert [tuple(row.values()) for row in engine.query(current).to_pylist()] == [
            ("BTCUSDT", "BTC-USDT", "definition", "halted"),
            ("ETHBTC", "ETH-BTC", "withdrawal", "halted"),
            ("SOLUSDT", "SOL-USDT", "definition", "trading"),
        ]


@pytest.mark.parametrize(
    ("status", "content"), [(503, b"busy"), (200, b"<html>"), (200, b"SHORT {"), (200, b'{"serverTime": 1}')]
)
def test_without_a_list_market_data_goes_on_and_the_report_says_so(
    settings: Settings, tmp_path: Path, status: int, content: bytes
) -> None:
    lake = Venue(settings, tmp_path, "binance")
    with local_venue(saying([trade(1), trade(2)])) as venue, local_listing(lambda _: (status, content)) as url:
        plan = plan_of("binance", "BTCUSDT", lake.name, venue, definitions_url=url)
        report = run_until(
            lake.settings, lake.profiles, plan, lambda one: one.rows["ticks"] == 2 and one.definitions.failures > 2
        )
    assert report.definitions.missing
    assert report.definitions.lists == report.definitions.published == 0
    assert json.loads(json.dumps(report.as_document(), default=str))["definitions"]["failures"] > 2
    lake.land()
    assert len(lake.rows("ticks")) == 2
    assert lake.rows("instruments") == []


def test_a_failure_after_a_list_leaves_the_definitions_as_they_are(settings: Settings, tmp_path: Path) -> None:
    whole = binance(*(spot_pair(name, "USDT") for name in ("A", "B", "C", "D", "E")))
    short = binance(spot_pair("A", "USDT"))
    answers: list[tuple[int, Any]] = [(200, whole), (503, {}), (200, short), (200, whole)]
    lake = Venue(settings, tmp_path, "binance")
    with (
        local_venue(saying([])) as venue,
        local_listing(lambda place: (answers[place % 4][0], body(answers[place % 4][1]))) as url,
    ):
        plan = plan_of("binance", "BTCUSDT", lake.name, venue, definitions_url=url)
        report = run_until(lake.settings, lake.profiles, plan, lambda one: one.definitions.lists >= 3)
    assert (report.definitions.published, report.definitions.withdrawn) == (5, 0)
    assert report.definitions.failures >= 2


def test_a_recording_that_is_played_gives_the_same_instruments(settings: Settings, tmp_path: Path) -> None:
    """With lists that change, are cut short, are none, and an item that cannot be read."""
    bad = spot_pair("BAD", "USDT", filters=[{"filterType": "PRICE_FILTER", "tickSize": "0.000000001"}])
    first = binance(*(spot_pair(name, "USDT") for name in ("A", "B", "C")), bad)
    later = binance(spot_pair("A", "USDT", status="HALT"), spot_pair("B", "USDT"), spot_pair("D", "USDT"), bad)
    answers = [body(first), b"<html>", body(binance(spot_pair("A", "USDT"))), body(later)]
    lake, path = Venue(settings, tmp_path, "binance"), tmp_path / "recorded.gz"
    with (
        local_venue(saying([trade(1)])) as venue,
        local_listing(lambda place: (200, answers[min(place, 3)])) as url,
    ):
        plan = plan_of("binance", "BTCUSDT", lake.name, venue, definitions_url=url, record=path)
        report = run_until(lake.settings, lake.profiles, plan, lambda one: one.definitions.lists >= 3)
    lake.land()
    (other := tmp_path / "other").mkdir()
    played = Venue(settings, other, "binance")
    told = played.play(path)
    assert (told.rows["instruments"], told.refused) == (6, 1) == (
        report.definitions.published + report.definitions.withdrawn, report.definitions.refused,
    )  # fmt: skip
    assert told.skipped["list of instruments, not usable"] == report.definitions.failures == 2
    assert told.skipped["list of instruments, nothing new"] == report.definitions.lists - 2 >= 1

    def rows_of(one: Venue) -> list[dict[str, Any]]:
        """But for where they went, and by whom they were published."""
        apart = ("exchange", "publisher_session", "publish", "kafka", "ingest", "schema_id", "topic_epoch")
        rows = [row for row in one.rows("instruments") if row["exchange"] == one.name]
        kept = [{name: row[name] for name in row if not name.startswith(apart)} for row in rows]
        return sorted(kept, key=lambda row: (row["receive_timestamp"], row["kind"], row["symbol"]))

    assert rows_of(played) == rows_of(lake)
    assert len(rows_of(lake)) == 6
    refused = [row for row in lake.rows("quarantine") if row["dataset"] == "instruments"]
    assert len(refused) == 2
    assert refused[0]["value"] == refused[1]["value"]


def test_definitions_come_also_while_there_is_no_connection(settings: Settings, tmp_path: Path) -> None:
    lake = Venue(settings, tmp_path, "binance")
    with local_listing(lambda _: (200, body(SPOT))) as url, local_venue(saying([])) as venue:
        plan = plan_of("binance", "BTCUSDT", lake.name, venue, definitions_url=url, url="ws://127.0.0.1:9")
        stopped = threading.Event()

        def look(one: Any) -> None:
            if one.definitions.lists:
                stopped.set()

        report = feed(lake.settings, lake.profiles, plan, stop=stopped, on_progress=look, reconnect=Backoff(5, 5))
    assert report.definitions.published == 2
    assert report.connections == 0
