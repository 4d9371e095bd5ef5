import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from k2_dagster.cli import main
from k2_dagster.kafka.topics import ensure_topics
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import Settings, as_environment
from tests.feeds.lines.exchange import free_ports

EXCHANGE = "sim_lines"
END_SECONDS = 120.0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("receive", "--lines", "127.0.0.1:1"), 2, "two lines"),
        (("receive", "--lines", "127.0.0.1:1,127.0.0.1:1"), 2, "two lines"),
        (("receive", "--lines", "127.0.0.1:1,here"), 2, "no address"),
        (("receive", "--lines", "127.0.0.1:1,h:70000"), 2, "no address"),
        (("receive", "--snapshot"), 2, "--retransmission"),
        (("receive", "--channel", "a b"), 2, "--channel"),
        (("receive", "--exchange", "sim_crypto"), 4, "quote"),
        (("serve", "--drop", "1.5"), 2, "--drop"),
        (("serve", "--rate", "nan"), 2, "--rate"),
        (("serve", "--exchange", "sim_crypto", "--seconds", "1"), 4, "domain"),
        (("serve", "--exchange", "none", "--seconds", "1"), 4, "exchange was 'none'"),
    ],
)
def test_what_cannot_be_meant_is_told(arguments: tuple[str, ...], status: int, said: str) -> None:
    result = CliRunner().invoke(main, ["lines", *arguments])
    assert (result.exit_code, said in result.output) == (status, True), result.output


def k2(settings: Settings, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "k2_dagster.cli", "lines", *arguments], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=os.environ | as_environment(settings),
    )  # fmt: skip


@pytest.mark.stack
def test_one_serves_and_another_receives(settings: Settings, tmp_path: Path) -> None:
    ensure_topics(settings, load_profiles(), [EXCHANGE])
    addresses = [f"{host}:{port}" for host, port in free_ports(3)]
    lines = ",".join(addresses[:2])
    common = ("--lines", lines, "--retransmission", addresses[2], "--json")
    receiving = k2(settings, "receive", *common, "--until-end", "--seconds", "60")
    assert receiving.stderr is not None
    assert "listening" in receiving.stderr.readline()
    truth = tmp_path / "truth.jsonl"
    more = ("--symbols", "5", "--rate", "500", "--seconds", "3", "--drop", "0.1", "--linger", "60")
    serving = k2(settings, "serve", *common, *more, "--truth", str(truth))
    told, _ = receiving.communicate(timeout=END_SECONDS)
    serving.send_signal(signal.SIGINT)
    sent, said = serving.communicate(timeout=END_SECONDS)
    # All was sent: a stop ends only the waiting for requests
    assert (receiving.returncode, serving.returncode) == (0, 0), said
    received, served = json.loads(told), json.loads(sent)
    assert served["messages"] == 1_500
    rows = received["rows"]
    assert sum(rows[dataset] for dataset in ("ticks", "quotes", "book")) == 1_500 - received["missing"]
    # A machine that is too busy does not answer in time; then it is told
    assert received["missing"] == 0 or received["asked"]["failures"], received
    assert served["lost_messages"] > 0
    assert {json.loads(line)["what"] for line in truth.read_text().splitlines()} == {"dropped", "lost"}
    for name in ("A", "B"):
        assert received["lines"][name]["missing"] == served["lines"][name]["dropped_messages"]


@pytest.mark.stack
def test_a_stop_delivers_and_says_so(settings: Settings) -> None:
    ensure_topics(settings, load_profiles(), [EXCHANGE])
    lines = ",".join(f"{host}:{port}" for host, port in free_ports(2))
    receiving = k2(settings, "receive", "--lines", lines)
    assert receiving.stderr is not None
    assert "listening" in receiving.stderr.readline()
    receiving.send_signal(signal.SIGINT)
    told, _ = receiving.communicate(timeout=END_SECONDS)
    assert receiving.returncode == 130
    assert "sim_lines:" in told
