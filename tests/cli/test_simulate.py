import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from k2_dagster.cli import main
from k2_dagster.cli.simulate import StartTime, _when
from k2_dagster.devstack.stack import Stack
from k2_dagster.kafka.topics import ensure_topics, watermarks
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import Settings, as_environment

EXCHANGE = "sim_futures"
START_SECONDS = 60.0


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--fault", "reorder:500@4s"), "count was 500"),
        (("--fault", "drop:1@4s/nothing"), "dataset was 'nothing'"),
        (("--fault", "drop:1@4s/ticks/NONE"), "symbol was 'NONE'"),
        (("--exchange", "none"), "exchange was 'none'"),
    ],
)
def test_what_the_exchange_does_not_have_is_a_terminal_error_that_says_what_is_valid(
    option: tuple[str, ...], said: str
) -> None:
    result = CliRunner().invoke(main, ["simulate", "--seconds", "1", *option])
    assert result.exit_code == 4
    assert said in result.output
    assert "->" in result.output


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "-1", "1e400", "many"])
@pytest.mark.parametrize("option", ["--rate", "--seconds", "--random-faults", "--symbols", "--seed"])
def test_a_number_that_is_none_is_a_usage_error(option: str, number: str) -> None:
    result = CliRunner().invoke(main, ["simulate", option, number])
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert option in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rate", "0"), "--rate"),
        (("--seconds", "0"), "--seconds"),
        (("--symbols", "0"), "--symbols"),
        (("--seconds", "1e300"), "--seconds"),
        (("--fault", "dorp:3@4s"), "fault was 'dorp:3@4s'"),
        (("--fault", "session_reset:5@4s"), "has no count"),
        (("--start", "yesterday", "--flat-out"), "ISO 8601"),
        (("--start", "0001-01-01", "--flat-out"), "1980 to 2100"),
        (("--start", "2026-03-02T09:30:00Z"), "--start needs --flat-out"),
        (("--start", "2099-03-02T09:30:00Z", "--flat-out"), "needs --seconds"),
        (("--flat-out",), "--flat-out needs --seconds"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(options: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(main, ["simulate", *options])
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert said in " ".join(result.output.split())


@pytest.mark.parametrize(
    "text", ["2026-03-02T09:30:00Z", "2026-03-02 09:30", "2026-03-02T10:30:00+01:00", "2026-03-02T09:30:00.000000"]
)
def test_a_start_is_utc_unless_it_says_otherwise(text: str) -> None:
    assert StartTime().convert(text, None, None) == 1_772_443_800_000_000


def test_what_is_flat_out_ends_now_unless_it_is_said() -> None:
    now = time.time() * 1_000_000
    start, seconds = _when(None, 60.0, flat_out=True)
    assert seconds == 60.0
    assert now - start == pytest.approx(60_000_000, abs=5_000_000)
    start, seconds = _when(int(now) - 90_000_000, None, flat_out=True)
    assert seconds == pytest.approx(90, abs=5)
    assert _when(5_000_000, 7.0, flat_out=True) == (5_000_000, 7.0)
    start, seconds = _when(None, None, flat_out=False)
    assert seconds is None
    assert start == pytest.approx(now, abs=5_000_000)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from k2_dagster.cli import main; main()", "simulate", *arguments]


@pytest.mark.stack
def test_the_json_report_counts_what_is_in_kafka(settings: Settings, tmp_path: Path) -> None:
    ensure_topics(settings, load_profiles(), [EXCHANGE])
    before = _count(settings)
    truth = tmp_path / "truth.jsonl"
    done = subprocess.run(
        _command("--exchange", EXCHANGE, "--rate", "1000", "--seconds", "6", "--flat-out", "--json",
                 "--fault", "duplicate:12@2s", "--truth", str(truth)),
        env=as_environment(settings), capture_output=True, text=True, timeout=START_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["faults"] == {"duplicate": 1}
    assert sum(report["published"][name] for name in ("ticks", "quotes", "book")) == 6_012
    assert _count(settings) - before == 6_012
    assert json.loads(truth.read_text())["count"] == 12


@pytest.mark.stack
def test_ctrl_c_ends_it_cleanly_with_its_report(settings: Settings) -> None:
    ensure_topics(settings, load_profiles(), [EXCHANGE])
    before = _count(settings)
    process = subprocess.Popen(
        _command("--exchange", EXCHANGE, "--rate", "500", "--json"),
        env=as_environment(settings), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + START_SECONDS
        while _count(settings) == before:
            assert process.poll() is None
            assert time.monotonic() < deadline, "nothing was published"
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=START_SECONDS)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    report = json.loads(output)
    assert report["interrupted"]
    published = sum(report["published"][name] for name in ("ticks", "quotes", "book"))
    assert _count(settings) - before == published <= report["generated"]


@pytest.mark.stack
def test_a_rate_that_is_not_held_and_faults_that_did_not_happen_are_told(settings: Settings) -> None:
    ensure_topics(settings, load_profiles(), [EXCHANGE])
    done = subprocess.run(
        _command("--exchange", EXCHANGE, "--rate", "5000000", "--seconds", "0.1", "--json", "--fault", "drop@1s"),
        env=as_environment(settings), capture_output=True, text=True, timeout=START_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["behind_seconds"] > 1
    assert "the rate was not held" in done.stderr
    (unplanted,) = report["unplanted"]
    assert f"1 faults did not happen: {unplanted}" in done.stderr


@pytest.mark.stack
def test_a_second_ctrl_c_gives_up_what_kafka_does_not_take(settings: Settings, stack: Stack) -> None:
    ensure_topics(settings, load_profiles(), [EXCHANGE])
    before = _count(settings)
    process = subprocess.Popen(
        _command("--exchange", EXCHANGE, "--rate", "500", "--json"),
        env=as_environment(settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    kafka = _kafka_process(stack)
    try:
        deadline = time.monotonic() + START_SECONDS
        while _count(settings) == before:
            assert process.poll() is None
            assert time.monotonic() < deadline, "nothing was published"
            time.sleep(0.1)
        kafka.suspend()
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.readline()
        assert re.fullmatch(r"waiting for Kafka, Ctrl-C again to give up [1-9][0-9,]* messages\n", said), said
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=START_SECONDS)
    finally:
        kafka.resume()
        process.kill()
        process.wait()
    assert process.returncode == 130
    report = json.loads(output)
    assert report["interrupted"]
    assert f"gave up {report['undelivered']:,} messages that Kafka had not taken" in errors
    assert report["undelivered"] > 0
    assert "%" not in errors


def _kafka_process(stack: Stack) -> psutil.Process:
    """The broker, by the port that it listens on."""
    port = int(stack.addresses().kafka_bootstrap_servers.split(",")[0].rsplit(":", 1)[1])
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(one.laddr.port == port and one.status == psutil.CONN_LISTEN for one in process.net_connections()):
                return process
    raise AssertionError(f"nothing listens on port {port}")


def _count(settings: Settings) -> int:
    """Messages in the data topics. No other test publishes to this exchange."""
    ends = (watermarks(settings, f"market.{name}.{EXCHANGE}", 4) for name in ("ticks", "quotes", "book"))
    return sum(end for one in ends for _, end in one.values())
