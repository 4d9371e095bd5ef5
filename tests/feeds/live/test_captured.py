"""The frames of real captures, from a venue on this machine; in the middle the line breaks and frames come again."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from k2_dagster.feeds.live.venues import VENUES
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from tests.feeds.capture.support import Whole, read_whole
from tests.feeds.conftest import Read
from tests.feeds.live.feeding import plan_of, profiles_of, rows_of, run_until
from tests.feeds.live.support import Peer, captured_frames, greet, local_snapshots, local_venue

pytestmark = [pytest.mark.stack, pytest.mark.captures]
ReadTopic = Callable[[str], list[Read]]
# Frames that the second connection says again.
REPEATED = 40
# Of a capture: what shows everything, and does not take long.
MOST_FRAMES = 6_000
STAMPS = ("publisher_session", "publisher_sequence", "publish_timestamp")


@dataclass(frozen=True)
class Captured:
    """A capture, its symbols, and how many requests a client of its venue begins with."""

    venue: str
    file: str
    symbols: str
    requests: int


CAPTURES = [
    Captured("binance", "binance_ws/spot_btcusdt_20240808.gz", "BTCUSDT", 1),
    Captured("binance_coinm", "binance_ws/cm_ethusd_perp_20240808.gz", "ETHUSD_PERP", 1),
    Captured(
        "coinbase",
        "venues_ws/COINBASE.ws.28.0.gz",
        "SKL-USD,SKL-BTC,BAND-GBP,NMR-EUR,BAND-BTC,YFI-BTC,DASH-BTC,NU-GBP,CRV-EUR,SKL-GBP",
        1,
    ),
    Captured("kraken", "venues_ws/KRAKEN.ws.48.0.gz", "WAVES/EUR,XMR/USD,ADA/XBT", 3),
    Captured("kraken_futures", "venues_ws/KRAKEN_FUTURES.ws.1.0.gz", "PI_XBTUSD,PI_ETHUSD", 4),
]


@pytest.mark.parametrize("captured", CAPTURES, ids=lambda one: one.venue)
def test_frames_of_a_capture_are_published_recorded_and_played_back_as_the_same_rows(
    settings: Settings, tmp_path: Path, sample_data: Path, read_topic: ReadTopic, captured: Captured
) -> None:
    frames = [one for one in captured_frames(sample_data / captured.file) if b"lastUpdateId" not in one][:MOST_FRAMES]
    middle = len(frames) // 2

    def first(peer: Peer) -> None:
        greet(peer, captured.requests)
        peer.say(*(frame.decode() for frame in frames[:middle]))
        peer.connection.close(1001, "going away")

    def second(peer: Peer) -> None:
        greet(peer, captured.requests)
        peer.say(*(frame.decode() for frame in frames[max(0, middle - REPEATED) :]))
        peer.stay()

    said = len(frames) + min(REPEATED, middle)
    profiles, name = profiles_of(settings, tmp_path, captured.venue)
    recorded = tmp_path / "recorded.gz"
    with local_venue(first, second) as venue, local_snapshots(_snapshots(frames)) as snapshots:
        plan = plan_of(captured.venue, captured.symbols, name, venue, snapshot_url=snapshots, record=recorded)
        report = run_until(
            settings, profiles, plan,
            lambda one: one.connections == 2 and one.frames - one.snapshots >= said + 2 * captured.requests,
        )  # fmt: skip
    assert (report.refused, report.books_lost, report.undelivered) == (0, 0, 0)
    played = read_whole(recorded)
    assert played.format == VENUES[captured.venue].format
    _same(played, read_topic, name)
    assert dict(report.rows) | {"control": 0} == {
        dataset: played.tables[dataset].num_rows for dataset in report.rows if dataset != "control"
    } | {"control": 0}
    # Beside what the feed handler says of each connection, the recording has their beginnings and ends
    told = [row for row in played.tables["control"].to_pylist() if row["stream"] == "connection"]
    assert [row["state"] for row in told] == ["connected", "disconnected"] * 2
    assert told[1]["reason"] == "the venue closed it with code 1001 (going away)"


def _snapshots(frames: list[bytes]) -> Callable[[str, int], tuple[int, bytes]]:
    """A book as of the newest update that the venue has, so that it fits any chain; of no levels."""
    numbers = [json.loads(frame)["data"]["u"] for frame in frames if b'"depthUpdate"' in frame]

    def answer(symbol: str, _place: int) -> tuple[int, bytes]:
        body = {"lastUpdateId": max(numbers), "E": 1_723_161_255_408, "T": 1_723_161_255_408, "bids": [], "asks": []}
        return 200, json.dumps(body | ({"symbol": symbol} if "_" in symbol else {})).encode()

    return answer


def _same(played: Whole, read_topic: ReadTopic, exchange: str) -> None:
    """What was published live is what the recording gives: of each symbol the same rows in the same order."""
    for dataset in ("ticks", "quotes", "book"):
        live = rows_of(read_topic(topic_name(dataset, exchange)), dataset)
        again = played.tables[dataset].to_pylist()
        assert _by_symbol(live) == _by_symbol(again), dataset
        for row in live:
            assert row["publisher_sequence"] is not None


def _by_symbol(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["symbol"], []).append(
            {key: value or None for key, value in row.items() if key not in (*STAMPS, "exchange")}
        )
    return found
