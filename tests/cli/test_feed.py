import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from k2_dagster.cli import main
from k2_dagster.cli.feed import progress_text
from k2_dagster.feeds.live.report import ConnectionReport, FeedReport
from k2_dagster.feeds.live.skew import Skew
from k2_dagster.kafka.topics import describe, watermarks
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings, as_environment
from tests.feeds.capture.support import read_whole
from tests.feeds.live.feeding import profiles_of, trade
from tests.feeds.live.support import LocalVenue, local_venue, saying, wait_for

# A process imports in a few seconds; several times that on a busy machine.
START_SECONDS = 60.0
STOP_SECONDS = 10.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("nowhere", "--symbols", "X"), "binance_coinm"),
        (("binance",), "--symbols"),
        (("binance", "--symbols", "A,,B"), "BTCUSDT,ETHUSDT"),
        (("binance", "--symbols", "A B"), "'A B' is no symbol"),
        (("binance", "--symbols", "A", "--url", "127.0.0.1"), "wss://host:port/path"),
        (("binance", "--symbols", "A", "--url", "ws://["), "wss://host:port/path"),
        (("binance", "--symbols", "A", "--url", "ws://x:99999"), "wss://host:port/path"),
        (("binance", "--symbols", "A", "--url", "ws://:80"), "wss://host:port/path"),
        (("binance", "--symbols", "A", "--snapshot-url", "ws://x"), "https://host:port/path"),
        (("binance", "--symbols", "A", "--seconds", "0"), "--seconds"),
        (("kraken", "--symbols", ",".join(f"S{number}" for number in range(101))), "takes 100 symbols"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(options: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(main, ["feed", *options])
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert said in result.output


def test_an_exchange_without_the_venues_streams_is_refused_before_anything_is_sent() -> None:
    result = CliRunner().invoke(main, ["feed", "kraken", "--symbols", "XBT/USD", "--exchange", "binance"])
    assert result.exit_code == 4
    assert "binance declares no stream 'spread' of quotes, which the feed of kraken (kraken_ws) has" in result.output


def test_progress_says_where_the_feed_is() -> None:
    report = FeedReport("binance", "binance", ["X"], tries=2)
    assert progress_text(report) == "binance: not connected, try 2"
    report.connections = 3
    report.rows.update(ticks=12_345)
    report.books_waiting = 1
    report.last.append(ConnectionReport("s", skew=Skew(12.34, -1_250.0, 9)))
    assert progress_text(report) == (
        "binance: 12,345 rows, connection 3, 1 books wait for a snapshot, "
        "received +12.3 ms after the venue's time (least -1,250.0 ms)"
    )
    report.last[-1].ended = "the line broke"
    report.last[-1].silent = ["trade"]
    assert "not connected (the line broke)" in progress_text(report)
    assert "nothing yet of trade" in progress_text(report)


@pytest.fixture
def venue() -> Iterator[LocalVenue]:
    with local_venue(saying([trade(1), trade(2), "damage"])) as local:
        yield local


@pytest.fixture
def command(settings: Settings, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """The beginning of a command that feeds into an exchange of this test's own, and its environment."""
    _, name = profiles_of(settings, tmp_path, "binance")
    own = settings.model_copy(update={"profiles": tmp_path / f"{name}.toml"})
    return ["feed", "binance", "--symbols", "btcusdt", "--exchange", name], as_environment(own)


@pytest.mark.stack
def test_a_feed_for_some_seconds_is_reported_and_recorded(
    command: tuple[list[str], dict[str, str]], venue: LocalVenue, tmp_path: Path
) -> None:
    options, environment = command
    recorded = tmp_path / "x.gz"
    options += ["--url", venue.url, "--seconds", "3"]
    result = CliRunner().invoke(
        main, [*options, "--record", str(recorded), "--json"], env=environment, catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["symbols"], report["rows"]["ticks"], report["refused"]) == (["BTCUSDT"], 2, 1)
    assert report["last"][0]["ended"] == "the feed was stopped"
    assert report["last"][0]["skew"]["rows"] == 2
    assert report["last"][0]["silent"] == ["bookTicker", "depth", "depth_snapshot"]
    whole = read_whole(recorded)
    assert whole.tables["ticks"].num_rows == 2
    assert whole.skipped["reply to a request"] == 1
    shown = CliRunner().invoke(main, options, env=environment, catch_exceptions=False)
    assert "refused and published for quarantine: 1; first: " in shown.stdout
    assert "after the venue's time (least" in shown.stdout
    again = CliRunner().invoke(main, [*options, "--record", str(recorded)], env=environment)
    assert again.exit_code == 4
    assert "cannot be written: File exists" in again.output


@pytest.mark.stack
def test_a_venue_that_was_never_reached_is_no_success(command: tuple[list[str], dict[str, str]]) -> None:
    options, environment = command
    options += ["--url", "ws://127.0.0.1:1", "--seconds", "0.5", "--no-definitions", "--json"]
    result = CliRunner().invoke(main, options, env=environment)
    assert (result.exit_code, "was not reached" in result.stderr) == (3, True), result.output


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[list[str], dict[str, str]], subprocess.Popen[str]]]:
    """Starts `k2` with arguments and an environment."""
    running: list[subprocess.Popen[str]] = []

    def run(options: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        plain = {key: value for key, value in os.environ.items() if not key.startswith("K2_")}
        arguments = [sys.executable, "-m", "k2_dagster.cli", *options]
        running.append(
            subprocess.Popen(
                arguments, env=plain | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return running[-1]

    yield run
    for one in running:
        one.kill()
        one.communicate(timeout=10)


@pytest.mark.stack
def test_ctrl_c_delivers_what_was_accepted(
    settings: Settings,
    command: tuple[list[str], dict[str, str]],
    venue: LocalVenue,
    start: Callable[[list[str], dict[str, str]], subprocess.Popen[str]],
) -> None:
    process = start([*command[0], "--url", venue.url, "--json"], command[1])
    topic = topic_name("ticks", command[0][-1])
    partitions = describe(settings, [topic])[topic].partitions
    wait_for(lambda: sum(end for _, end in watermarks(settings, topic, partitions).values()) == 2, START_SECONDS)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=STOP_SECONDS)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    report = json.loads(output)
    assert (report["stopped"], report["undelivered"], report["rows"]["ticks"]) == (True, 0, 2)


@pytest.mark.stack
def test_a_stop_does_not_wait_for_a_venue_that_does_not_answer(
    command: tuple[list[str], dict[str, str]],
    start: Callable[[list[str], dict[str, str]], subprocess.Popen[str]],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        process = start([*command[0], "--url", address], command[1])
        silent.settimeout(START_SECONDS)
        peer, _ = silent.accept()
        with peer:
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            output, errors = process.communicate(timeout=STOP_SECONDS)
            assert time.monotonic() - began < STOP_SECONDS / 2
    assert process.returncode == 130, errors
    assert "no rows" in output


@pytest.mark.stack
def test_a_venue_that_is_not_there_is_given_up_with_status_3(
    command: tuple[list[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k2_dagster.feeds.live.feed.FIRST_TRIES", 2)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    result = CliRunner().invoke(main, [*command[0], "--url", f"ws://127.0.0.1:{port}"], env=command[1])
    assert result.exit_code == 3
    assert "in 2 tries; the last: not connected: " in result.output
