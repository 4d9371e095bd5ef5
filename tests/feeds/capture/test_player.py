import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.capture.block import Block, Refusal
from k2_dagster.feeds.capture.formats import open_capture
from k2_dagster.feeds.capture.player import REFUSED_BYTES, PlayReport, play, refused_message
from k2_dagster.kafka.topics import ensure_topics
from k2_dagster.schemas.profiles import PACKAGED_PROFILES, Profiles, load_profiles
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


@pytest.mark.stack
def test_rows_and_refusals_reach_their_topics(
    settings: Settings, binance_like: tuple[Profiles, str], read_topic: ReadTopic, tmp_path: Path
) -> None:
    profiles, name = binance_like
    path = written(tmp_path / "x", _trade(1), _trade(2, p="1.123456789"), b"\x00damage", _trade(3), b"")
    (report,) = play(settings, profiles, [open_capture(path, name)], speed=None, stop=NEVER)
    assert (report.inputs, dict(report.rows), report.refused, dict(report.skipped)) == (
        5, {"ticks": 2}, 2, {"empty line": 1},
    )  # fmt: skip
    ticks = read_topic(topic_name("ticks", name))
    assert {one.key for one in ticks} == {f"{name}.BTCUSDT".encode()}
    framed, refused = (
        [one.value for one in ticks if one.value.startswith(b"\0") is wanted] for wanted in (True, False)
    )
    assert len(framed) == 2
    assert refused[0].splitlines()[1:] == [_trade(2, p="1.123456789")]
    assert b"x at 2: trade: p:" in refused[0]
    (control,) = read_topic(topic_name("control", name))
    assert (control.key, control.value.splitlines()[1:]) == (f"{name}.*".encode(), [b"\x00damage"])


@pytest.mark.stack
@pytest.mark.captures
def test_a_real_capture_arrives_whole(
    settings: Settings, binance_like: tuple[Profiles, str], read_topic: ReadTopic, sample_data: Path
) -> None:
    profiles, name = binance_like
    path = sample_data / "binance_ws" / "spot_btcusdt_20240808.gz"
    (report,) = play(settings, profiles, [open_capture(path, name)], speed=None, stop=NEVER)
    arrived = {dataset: len(read_topic(topic_name(dataset, name))) for dataset in ("ticks", "quotes", "book")}
    assert arrived == dict(report.rows) == {"ticks": 9_757, "quotes": 28_040, "book": 3_452}


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
    assert dict(report.rows) == {"ticks": 11}
    assert 1.4 < time.monotonic() - started < 30


def test_an_exchange_that_lacks_a_stream_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    capture = open_capture(written(tmp_path / "x", _trade(1)), "coinbase")
    with pytest.raises(ConfigurationError, match=r"coinbase declares no stream 'trade' of ticks.*binance_ws"):
        play(load_settings({}), load_profiles(), [capture], speed=None, stop=NEVER)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(ConfigurationError, match="speed"):
        play(load_settings({}), load_profiles(), [], speed=speed, stop=NEVER)


def test_a_refused_line_too_long_for_kafka_is_cut_and_says_so(tmp_path: Path) -> None:
    capture = open_capture(written(tmp_path / "x", _trade(1)))
    message = refused_message(capture, Refusal(7, b"z" * (REFUSED_BYTES + 1), "why"))
    assert message.startswith(b"k2 play refused x at 7 (first 524,288 of 524,289 bytes): why\n")
    assert message.count(b"z") == REFUSED_BYTES


def test_the_report_shows_the_first_refusals_and_counts_all() -> None:
    report = PlayReport("x", "f", "e", "s")
    for _ in range(2):
        report.count(Block(4, {}, [Refusal(place, b"", "why") for place in range(4)], Counter({"empty line": 1})))
    assert (report.inputs, report.refused, len(report.refusals), report.skipped["empty line"]) == (8, 8, 5, 2)
