"""`k2 recover` against a local server that answers as Binance does."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from k2_dagster.coverage.complete import Complete
from k2_dagster.devstack.process import wait_until
from k2_dagster.settings import as_environment
from tests.conftest import REPOSITORY
from tests.feeds.recovery.conftest import MakeRecoverable
from tests.feeds.recovery.local_venue import Archive, serving
from tests.feeds.recovery.test_on_stack import asked

pytestmark = pytest.mark.stack

CHILD_SECONDS = 60.0


def test_the_command_recovers_from_a_venue(make_recoverable: MakeRecoverable) -> None:
    """Messages of a feed, a gap, `k2 recover`, and a local server that answers as Binance does."""
    archive = Archive(range(1, 100))
    with serving(archive) as url:
        exchange = make_recoverable("trade", url=url)
        exchange.numbers_of([one for one in range(1, 61) if not 20 < one <= 40], stream="trade")
        report = json.loads(exchange.k2("recover", exchange.name, "--once", "--json"))
        assert [row["outcome"] for row in report["last"]] == ["recover"]
        assert (report["asked"], report["published"], report["source"]) == (1, 20, "binance_rest")
        exchange.drain()
        assert exchange.gap()["state"] == "filled"
        assert asked(exchange, 2, 59, "trade") == Complete("venue")
        assert "0 asked for, served: none" in exchange.k2("recover", exchange.name, "--once")
    (row,) = [row for row in exchange.landed() if row["sequence"] == 30]
    assert (row["origin"], str(row["price"]), row["trade_id"]) == ("recovered", "5.00000000", "30")


def test_the_command_runs_until_it_is_stopped(make_recoverable: MakeRecoverable) -> None:
    with serving(Archive(range(1, 100))) as url:
        exchange = make_recoverable("trade", url=url)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("K2_")}
        command = [sys.executable, "-m", "k2_dagster.cli", "recover", exchange.name, "--json"]
        child = subprocess.Popen(
            command, env=environment | as_environment(exchange.settings), cwd=REPOSITORY, stdout=subprocess.PIPE
        )
        try:
            exchange.numbers_of([one for one in range(1, 61) if not 20 < one <= 40], stream="trade")
            assert wait_until(lambda: ("recover", 1) in exchange.events(), CHILD_SECONDS)
            exchange.drain()
            assert exchange.gap()["state"] == "filled"
            child.send_signal(signal.SIGTERM)
            before = time.monotonic()
            out, _ = child.communicate(timeout=CHILD_SECONDS)
            assert time.monotonic() - before < 10
        finally:
            child.kill()
            child.wait()
    assert (child.returncode, json.loads(out)["published"]) == (0, 20)
