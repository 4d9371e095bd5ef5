import gzip
import hashlib
import io
import json
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest

from k2_dagster.errors import CaptureInvalid, ConfigurationError
from k2_dagster.feeds.capture.block import Block, Refusal, Skip
from k2_dagster.feeds.capture.formats import open_capture
from k2_dagster.feeds.capture.pacing import Pace
from k2_dagster.feeds.capture.player import PlayReport, _Playing, play
from k2_dagster.feeds.handler import FeedHandler
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.kafka.topics import ensure_topics
from k2_dagster.schemas.avro import avro_schema
from k2_dagster.schemas.control import CONTROL
from k2_dagster.schemas.profiles import PACKAGED_PROFILES, Profiles, load_profiles
from k2_dagster.schemas.refused import VenueIdentity, read_refused
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings, load_settings
from tests.feeds.capture.support import written
from tests.feeds.conftest import Read

ReadTopic = Callable[[str], list[Read]]
NEVER = threading.Event()


@pytest.fixture
def binance_like(settings: Settings, tmp_path: Path) -> tuple[Profiles, str]:
    """Profiles in which `binance` has a name of this test's own, its topics created."""
    name = f"b_{uuid.uuid4().hex[:10]}"
    path = tmp_path / "profiles.toml"
    path.write_text(PACKAGED_PROFILES.read_text().replace("exchanges.binance.", f"exchanges.{name}.").replace(
        "exchanges.binance]", f"exchanges.{name}]"))  # fmt: skip
    profiles = load_profiles(path)
    ensure_topics(settings, profiles, [name])
    return profiles, name


def _trade(number: int, **changes: object) -> bytes:
    data = {"s": "BTCUSDT", "t": number, "p": "1.5", "q": "2", "T": 1_723_161_255_342, "m": True} | changes
    nanos = 1_723_161_253_937_085_768 + number * 1_000_000
    return f"{nanos} ".encode() + json.dumps({"stream": "btcusdt@trade", "data": data}).encode()


def _told(messages: list[Read]) -> list[dict[str, Any]]:
    """Rows of control messages."""
    rows: list[Any] = [
        fastavro.schemaless_reader(io.BytesIO(one.value[5:]), avro_schema(CONTROL), None)
        for one in messages
        if not one.headers
    ]
    return rows


@pytest.mark.stack
def test_rows_and_refusals_reach_their_topics_in_the_order_of_the_file(
    settings: Settings, binance_like: tuple[Profiles, str], read_topic: ReadTopic, tmp_path: Path
) -> None:
    profiles, name = binance_like
    bad = _trade(2, p="1.123456789")
    path = written(tmp_path / "x", _trade(1), bad, b"\x00damage", _trade(3), b"")
    (report,) = play(settings, profiles, [open_capture(path, name)], speed=None, stop=NEVER)
    assert (report.inputs, dict(report.rows), report.refused, dict(report.skipped)) == (
        5, {"ticks": 2, "control": 8}, 2, {"empty line": 1},
    )  # fmt: skip
    ticks = read_topic(topic_name("ticks", name))
    assert {one.key for one in ticks} == {f"{name}.BTCUSDT".encode()}
    assert [bool(one.headers) for one in ticks] == [False, True, False]
    assert ticks[1].value == bad
    refused = read_refused(ticks[1].headers)
    assert refused is not None
    assert refused.reason.startswith("trade: p: ")
    assert (refused.source, refused.publisher_session, refused.publisher_sequence) == (
        "x:2",
        report.publisher_session,
        2,
    )
    assert refused.identity == VenueIdentity("trade", "trade", "BTCUSDT", sequence=2)
    (strange,) = [one for one in read_topic(topic_name("control", name)) if one.headers]
    assert (strange.key, strange.value) == (f"{name}.*".encode(), b"\x00damage")


@pytest.mark.stack
def test_the_feed_handler_says_when_the_capture_begins_and_ends(
    settings: Settings, binance_like: tuple[Profiles, str], read_topic: ReadTopic, tmp_path: Path
) -> None:
    profiles, name = binance_like
    path = written(tmp_path / "x", _trade(1), _trade(1_000))
    play(settings, profiles, [open_capture(path, name)], speed=None, stop=NEVER)
    rows = _told(read_topic(topic_name("control", name)))
    assert [(row["state"], row["stream"]) for row in rows] == [
        (state, stream)
        for state in ("connected", "disconnected")
        for stream in ("trade", "bookTicker", "depth", "depth_snapshot")
    ]
    assert [row["publisher_sequence"] for row in rows] == list(range(1, 9))
    assert {row["exchange_timestamp_source"] for row in rows} == {"receiver"}
    assert (rows[4]["exchange_timestamp"] - rows[0]["exchange_timestamp"]).total_seconds() == pytest.approx(0.999)


@pytest.mark.stack
def test_a_capture_that_is_stopped_says_so_with_a_number_that_no_message_has(
    settings: Settings, binance_like: tuple[Profiles, str], read_topic: ReadTopic, tmp_path: Path
) -> None:
    profiles, name = binance_like
    path = written(tmp_path / "x", _trade(1), b"\x00damage", b"", _trade(3_600_000), _trade(3_600_001))
    stop = threading.Event()
    (report,) = play(
        settings, profiles, [open_capture(path, name)], speed=1.0, stop=stop, on_progress=lambda _: stop.set()
    )
    assert report.stopped
    # Each input that it came to is a row, refused or skipped
    assert (report.inputs, report.rows["ticks"], report.refused, dict(report.skipped)) == (3, 1, 1, {"empty line": 1})
    rows = _told(read_topic(topic_name("control", name)))
    last = [row for row in rows if row["state"] == "disconnected"]
    assert len(last) == 4
    assert {row["publisher_session"] for row in last} == {f"{report.publisher_session}-stopped-3"}
    assert [row["publisher_sequence"] for row in last] == [1, 2, 3, 4]


@pytest.mark.stack
def test_a_capture_that_cannot_be_read_further_is_disconnected_and_its_counts_are_kept(
    settings: Settings, binance_like: tuple[Profiles, str], read_topic: ReadTopic, tmp_path: Path
) -> None:
    profiles, name = binance_like
    lines = b"".join(_trade(number) + b"\n" for number in range(20_000))
    (tmp_path / "x.gz").write_bytes(gzip.compress(lines)[:-20_000])
    capture = open_capture(tmp_path / "x.gz", name)
    reports: list[PlayReport] = []
    with pytest.raises(CaptureInvalid, match="cut short"):
        play(settings, profiles, [capture], speed=None, stop=NEVER, reports=reports)
    assert reports == []
    report = PlayReport("x", "f", name, "s")
    with Publisher(settings, profiles, name, publisher_session="s") as publisher:
        handler = FeedHandler(publisher, profiles, name)
        with pytest.raises(CaptureInvalid, match="cut short"):
            _Playing(capture, publisher, handler, report, Pace(None), NEVER).run(lambda _: None)
    assert report.rows["ticks"] == report.inputs == len(read_topic(topic_name("ticks", name))) > 0
    assert [row["state"] for row in _told(read_topic(topic_name("control", name)))] == [
        *["connected"] * 4, *["disconnected"] * 4,
    ]  # fmt: skip


@pytest.mark.stack
@pytest.mark.captures
def test_a_real_capture_arrives_whole(
    settings: Settings, binance_like: tuple[Profiles, str], read_topic: ReadTopic, sample_data: Path
) -> None:
    profiles, name = binance_like
    path = sample_data / "binance_ws" / "spot_btcusdt_20240808.gz"
    (report,) = play(settings, profiles, [open_capture(path, name)], speed=None, stop=NEVER)
    arrived = {dataset: len(read_topic(topic_name(dataset, name))) for dataset in ("ticks", "quotes", "book")}
    assert arrived == {"ticks": 9_757, "quotes": 28_040, "book": 3_452}
    assert dict(report.rows) == {**arrived, "control": 8}
    assert report.share == 1.0


@pytest.mark.stack
def test_timing_and_stop(settings: Settings, binance_like: tuple[Profiles, str], tmp_path: Path) -> None:
    profiles, name = binance_like
    # One second of recorded time at twice the speed, then an hour that must not be waited for.
    path = written(tmp_path / "x", *(_trade(number * 100) for number in range(11)), _trade(3_600_000))
    stop = threading.Event()
    timer = threading.Timer(1.5, stop.set)
    timer.start()
    started = time.monotonic()
    (report,) = play(settings, profiles, [open_capture(path, name)], speed=2.0, stop=stop)
    timer.join()
    assert report.stopped
    assert report.rows["ticks"] == report.inputs == 11
    assert 1.4 < time.monotonic() - started < 30


def test_an_exchange_that_lacks_a_stream_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    capture = open_capture(written(tmp_path / "x", _trade(1)), "coinbase")
    with pytest.raises(ConfigurationError, match=r"coinbase declares no stream 'trade' of ticks.*binance_ws"):
        play(load_settings({}), load_profiles(), [capture], speed=None, stop=NEVER)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(ConfigurationError, match="speed"):
        play(load_settings({}), load_profiles(), [], speed=speed, stop=NEVER)


@pytest.mark.stack
def test_what_is_too_large_for_kafka_is_refused_and_playing_goes_on(
    settings: Settings, binance_like: tuple[Profiles, str], read_topic: ReadTopic, tmp_path: Path
) -> None:
    profiles, name = binance_like
    levels = json.dumps([[f"{price}.12345678", "1.00000001"] for price in range(100_000)])
    snapshot = b'1723161254206652067 {"lastUpdateId":7,"symbol":"BTCUSDT","bids":%s,"asks":[]}' % levels.encode()
    damaged = b"x" * 1_500_000
    path = written(tmp_path / "x", _trade(1), snapshot, damaged, _trade(2))
    (report,) = play(settings, profiles, [open_capture(path, name)], speed=None, stop=NEVER)
    assert (report.inputs, report.rows["ticks"], report.rows["book"]) == (4, 2, 0)
    assert (report.refused, report.too_large) == (2, 1)
    (book,) = read_topic(topic_name("book", name))
    refused = read_refused(book.headers)
    assert refused is not None
    assert not book.value
    assert refused.identity == VenueIdentity("depth_snapshot", "book", "BTCUSDT", sequence=7)
    assert (refused.source, refused.publisher_sequence) == ("x:2", 1)
    assert refused.left_out_bytes is not None
    assert refused.left_out_bytes > 1_000_000
    (strange,) = [one for one in read_topic(topic_name("control", name)) if one.headers]
    refused = read_refused(strange.headers)
    assert refused is not None
    assert not strange.value
    assert (refused.source, refused.left_out_bytes) == ("x:3", len(damaged))
    assert refused.left_out_digest == hashlib.blake2b(damaged, digest_size=16).hexdigest()


def test_the_report_shows_the_first_refusals() -> None:
    report = PlayReport("x", "f", "e", "s")
    for _ in range(2):
        refusals = [Refusal(place, place, b"", "why") for place in range(4)]
        report.count(Block(0, 4, {}, refusals, [Skip(1, "empty line")]))
    assert (report.inputs, len(report.refusals), report.skipped["empty line"]) == (8, 5, 2)


def test_the_document_of_a_report_begins_with_what_it_is_about() -> None:
    report = PlayReport("x", "f", "e", "s", inputs=3)
    report.rows.update(ticks=2)
    document = report.as_document()
    assert list(document)[:2] == ["path", "format"]
    assert (document["inputs"], document["rows"], set(document)) == (3, {"ticks": 2}, set(vars(report)))
