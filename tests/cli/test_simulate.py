import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from k2_dagster.cli import main
from k2_dagster.kafka.topics import ensure_topics, watermarks
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import Settings, as_environment

EXCHANGE = "sim_futures"
START_SECONDS = 60.0


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--fault", "dorp:3@4s"), "fault was 'dorp:3@4s'"),
        (("--fault", "reorder:500@4s"), "count was 500"),
        (("--fault", "drop:1@4s/nothing"), "dataset was 'nothing'"),
        (("--fault", "drop:1@4s/ticks/NONE"), "symbol was 'NONE'"),
        (("--exchange", "none"), "exchange was 'none'"),
        (("--rate", "0"), "rate was 0"),
    ],
)
def test_a_wrong_option_is_a_terminal_error_that_says_what_is_valid(option: tuple[str, ...], said: str) -> None:
    # The session's own variable for a kept stack is not a setting.
    result = CliRunner().invoke(main, ["simulate", "--seconds", "1", *option])
    assert result.exit_code == 4
    assert said in result.output
    assert "->" in result.output


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
    assert _count(settings) - before == sum(report["published"][name] for name in ("ticks", "quotes", "book"))


def _count(settings: Settings) -> int:
    """Messages in the data topics. No other test publishes to this exchange."""
    ends = (watermarks(settings, f"market.{name}.{EXCHANGE}", 4) for name in ("ticks", "quotes", "book"))
    return sum(end for one in ends for _, end in one.values())
