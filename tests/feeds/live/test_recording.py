import gzip
import json
import os
from pathlib import Path
from typing import Literal

import pytest

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.capture.formats import open_capture
from k2_dagster.feeds.capture.listings.listing import read_listing
from k2_dagster.feeds.capture.listings.recorded import NO_LIST, NO_NEWS
from k2_dagster.feeds.live.fetching import named
from k2_dagster.feeds.live.intake import Arrival
from k2_dagster.feeds.live.recording import Recording
from k2_dagster.feeds.live.venues import VENUES
from tests.feeds.capture.listings.answers import ANSWERS
from tests.feeds.capture.support import read_whole
from tests.feeds.live.feeding import trade

NANOS = 1_723_161_253_937_085_768
URL = "https://127.0.0.1:8000/list?x=1"
ADDRESS = "ws://127.0.0.1:8000/stream?x=1"
FRAMES = {
    "binance": json.dumps(trade(1), indent=1),
    "binance_usdm": json.dumps(trade(1) | {"data": trade(1)["data"] | {"X": "MARKET"}}),
    "binance_coinm": json.dumps(trade(1) | {"data": trade(1)["data"] | {"X": "MARKET"}}),
    "coinbase": json.dumps(
        {"type": "match", "product_id": "A-B", "trade_id": 1, "price": "1.5", "size": "2", "side": "buy",
         "time": "2026-01-01T00:00:00.1Z"}
    ),
    "kraken": json.dumps([1, [["1.5", "2", "1618678132.1", "b", "l", ""]], "trade", "A/B"]),
    "kraken_futures": json.dumps(
        {"feed": "trade", "product_id": "PI_A", "seq": 1, "uid": "u", "price": 1.5, "qty": 2, "side": "buy",
         "type": "fill", "time": 1_618_678_132_000}
    ),
}  # fmt: skip
Kind = Literal["connected", "received", "sent", "snapshot", "ended"]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("venue", VENUES)
def test_a_list_of_instruments_is_read_as_what_it_was(tmp_path: Path, venue: str, suffix: str) -> None:
    path = tmp_path / f"recorded{suffix}"
    answer = json.dumps(ANSWERS[venue], indent=1).encode()
    with Recording(VENUES[venue], ADDRESS, path) as recording:
        recording.add(Arrival("received", NANOS, FRAMES[venue].encode()))
        recording.add_listing(NANOS, URL, b"<html>")
        recording.add_listing(NANOS + 1, URL, answer)
        recording.add_listing(NANOS + 2, URL, answer)
        assert recording.add(Arrival("received", NANOS, FRAMES[venue].encode()))[0] == 6
    listing = read_listing(VENUES[venue].listing, answer)
    whole = read_whole(path)
    rows = whole.tables["instruments"]
    assert rows["symbol"].to_pylist() == list(listing.definitions)
    assert set(rows["receive_timestamp_nanos"].to_pylist()) == {(NANOS + 1) % 1_000}
    assert [(place, dataset) for place, dataset, _, _ in whole.refusals] == [(4, "instruments")] * len(listing.refused)
    assert whole.skipped == {"header": 1, NO_LIST: 1, NO_NEWS: 1}
    assert (whole.inputs, whole.tables["ticks"].num_rows) == (6, 2)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("venue", VENUES)
def test_a_recording_is_read_as_what_it_was(tmp_path: Path, venue: str, suffix: str) -> None:
    path = tmp_path / f"recorded{suffix}"
    frame = FRAMES[venue].encode()
    happened: list[tuple[Kind, bytes]] = [
        ("connected", b""), ("sent", b'{"subscribe":"it"}'), ("received", frame), ("received", b"\xff\n\r\x00"),
        ("ended", "déconnecté".encode()),
    ]  # fmt: skip
    with Recording(VENUES[venue], ADDRESS, path) as recording:
        added = [recording.add(Arrival(kind, NANOS, payload)) for kind, payload in happened]
    assert [number for number, _ in added] == [2, 3, 4, 5, 6]
    assert added[3][1].endswith(b"\xff\n\r\x00")
    whole = read_whole(path)
    assert (whole.format, whole.exchange, whole.inputs) == (VENUES[venue].format, venue, 6)
    (row,) = whole.tables["ticks"].to_pylist()
    assert (row["price"], row["size"], row["receive_timestamp_nanos"]) == (150_000_000, 200_000_000, 768)
    assert whole.skipped == {"header": 1, "sent by the client": 1}
    ((place, *_),) = whole.refusals
    assert place == 5
    connections = [(one["state"], one["reason"]) for one in whole.tables["control"].to_pylist()]
    assert connections == [("connected", ADDRESS), ("disconnected", "déconnecté")]


def test_without_a_file_lines_are_numbered_all_the_same() -> None:
    with Recording(VENUES["binance"], ADDRESS, None) as recording:
        assert recording.name is None
        assert [recording.add(Arrival("received", NANOS, b"{}"))[0] for _ in range(3)] == [2, 3, 4]


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("dear")
    with pytest.raises(ConfigurationError, match="File exists"), Recording(VENUES["binance"], ADDRESS, path):
        pass
    assert path.read_text() == "dear"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_disk_that_is_full_ends_the_recording_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k2_dagster.feeds.live.recording.FLUSH_SECONDS", 0.0)
    recording = Recording(VENUES["binance"], ADDRESS, tmp_path / "x")
    assert recording._stream is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, recording._stream.fileno())
    os.close(full)
    with pytest.raises(ConfigurationError, match="No space left"):
        recording.add(Arrival("received", NANOS, b"{}"))
    with pytest.raises(ConfigurationError, match="No space left"), recording:
        pass


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b'{"lastUpdateId":7,"bids":[]}', b'{"symbol":"X","lastUpdateId":7,"bids":[]}'),
        (b' \n{ }', b'{"symbol":"X" }'),
        (b'{"lastUpdateId":7,"symbol":"X"}', b'{"lastUpdateId":7,"symbol":"X"}'),
        (b"<html>", b"<html>"),
        (b"", b""),
    ],
)  # fmt: skip
def test_a_snapshot_is_recorded_with_the_symbol_that_it_was_asked_for(body: bytes, line: bytes) -> None:
    assert named(body, "X") == line


def test_snapshots_of_several_symbols_in_one_recording_keep_theirs(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    with Recording(VENUES["binance"], ADDRESS, path) as recording:
        for symbol in ("A", "B"):
            body = named(b'{"lastUpdateId":7,"bids":[["1","2"]],"asks":[]}', symbol)
            recording.add(Arrival("snapshot", NANOS, body))
    assert gzip.decompress(path.read_bytes()).startswith(b"# k2 feed binance_ws\n")
    assert read_whole(path).tables["book"]["symbol"].to_pylist() == ["A", "B"]
    assert open_capture(path, "other").exchange == "other"
