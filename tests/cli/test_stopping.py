"""SIGTERM ends `k2 ingest` and a Dagster drain at a commit boundary within five seconds, whichever server is away.

The servers are those of a stack of this file's own: they are stopped (SIGSTOP), as a machine that hangs, not killed.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from k2_dagster.devstack.process import find, wait_until
from k2_dagster.devstack.stack import Stack
from k2_dagster.errors import TransientError
from k2_dagster.settings import Settings, as_environment, load_settings
from k2_dagster.state.database import Database
from k2_dagster.state.locks import table_lock
from tests.conftest import temporary_stack
from tests.dagster_support import Market, make_market

pytestmark = pytest.mark.stack

STOP_SECONDS = 5.0
# Processor time of the spin that tells how many others want the processor.
SPIN_SECONDS = 0.2
# A process imports and opens its streams in a few seconds; several times that on a busy machine.
START_SECONDS = 60.0
# Long enough for every wait of the process to have begun that the missing server keeps.
FROZEN_SECONDS = 3.0
EVERYTHING = ("kafka-1", "registry", "postgres")

DRAIN = "import sys; from tests.cli.stopped_drain import main; main(sys.argv[1])"


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """A stack whose parts may be stopped."""
    with temporary_stack() as own:
        yield own


@pytest.fixture
def market(own_stack: Stack, tmp_path: Path) -> Iterator[Market]:
    """Three exchanges with messages, two of them landed."""
    own = {
        "K2_CATALOG_URI": own_stack.create_database(f"test_{uuid.uuid4().hex[:12]}"),
        "K2_DAGSTER_URI": own_stack.create_database(f"test_{uuid.uuid4().hex[:12]}"),
        "K2_HOME": str(tmp_path / "home"),
        "K2_WAREHOUSE": f"file://{tmp_path}/warehouse",
    }
    made = make_market(load_settings(own_stack.settings_environment() | own), tmp_path, exchanges=3)
    yield made
    made.platform.close()


@contextmanager
def frozen(stack: Stack, *parts: str) -> Iterator[None]:
    """The servers hang for the time of the block: they keep their connections, and answer nothing."""
    found = [find(stack.home / "run" / f"{part}.json") for part in parts]
    processes = [member for one in found if one for member in (one.process, *one.process.children(recursive=True))]
    assert len(processes) >= len(parts)
    try:
        for process in processes:
            process.suspend()
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def crowding() -> float:
    """Wall time per second of processor time just now: 1 where the machine is ours, more where others work on it."""
    wall, processor = time.monotonic(), time.process_time()
    while time.process_time() - processor < SPIN_SECONDS:
        pass
    return max(1.0, (time.monotonic() - wall) / SPIN_SECONDS)


@dataclass
class Ending:
    """How a process ended after SIGTERM; `seconds` are those of a machine that nobody else works on."""

    seconds: float
    status: int
    output: str


@dataclass
class Running:
    """A process under test, with its output in a file."""

    process: subprocess.Popen[bytes]
    output: Path

    def says(self, words: str) -> bool:
        return words in self.output.read_text()

    def terminate(self) -> Ending:
        before, began = crowding(), time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        seconds = time.monotonic() - began
        return Ending(seconds / max(before, crowding()), status, self.output.read_text())


@pytest.fixture
def start(market: Market, tmp_path: Path) -> Iterator[Callable[[Sequence[str]], Running]]:
    """Starts Python with arguments and the market's settings."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("K2_")}
    running: list[Running] = []

    def run(arguments: Sequence[str]) -> Running:
        output = tmp_path / f"{len(running)}.log"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                env=plain | as_environment(market.settings),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        running.append(Running(process, output))
        return running[-1]

    yield run
    for one in running:
        one.process.kill()
        one.process.wait(10)


def ingest(*arguments: str) -> list[str]:
    return ["-m", "k2_dagster.cli", "ingest", *arguments]


def landed(settings: Settings) -> int:
    with closing(Database(settings)) as database, database.begin() as connection:
        return int(connection.execute(text("select coalesce(sum(consumed), 0) from k2.totals")).scalar_one())


@pytest.mark.parametrize("parts", [(), ("kafka-1",), ("registry",), ("postgres",), EVERYTHING], ids=str)
def test_the_process_ends_in_time_whatever_hangs(
    own_stack: Stack, market: Market, start: Callable[[Sequence[str]], Running], parts: Sequence[str]
) -> None:
    running = start(ingest())
    published = market.publish(market.exchanges[0])
    assert wait_until(lambda: landed(market.settings) >= published, START_SECONDS)
    assert wait_until(lambda: running.says(f"{market.exchanges[0]}/ticks"), START_SECONDS)
    market.publish(market.exchanges[1])
    with frozen(own_stack, *parts):
        time.sleep(FROZEN_SECONDS if parts else 0.0)
        ending = running.terminate()
    assert ending.seconds < STOP_SECONDS, ending.output
    assert ending.status == 0, ending.output
    assert "Traceback" not in ending.output
    for exchange in market.exchanges[:2]:
        assert wait_until(partial(drained, market, exchange), START_SECONDS)
    assert once(market)


def drained(market: Market, exchange: str) -> bool:
    """A server that hung needs a moment to find its feet."""
    try:
        return market.drain(exchange).caught_up
    except TransientError:
        return False


def once(market: Market) -> bool:
    """Whether every committed offset was consumed once: ends of the fence against the sum of what commits say."""
    report = market.platform.lag.read(market.exchanges)
    fences = sum(sum(one.fence.values()) for one in report.lags)
    return fences == landed(market.settings) and not report.errors


@pytest.mark.parametrize("parts", [("kafka-1",), ("postgres",)], ids=str)
def test_until_caught_up_ends_in_time_whatever_hangs(
    own_stack: Stack, market: Market, start: Callable[[Sequence[str]], Running], parts: Sequence[str]
) -> None:
    market.publish(market.exchanges[0], 20_000)
    settings = market.settings.model_copy(update={"ingest_batch_rows": 500})
    market.settings = settings
    running = start(ingest("--until-caught-up"))
    assert wait_until(lambda: running.says(f"{market.exchanges[0]}/ticks"), START_SECONDS)
    with frozen(own_stack, *parts):
        time.sleep(FROZEN_SECONDS)
        ending = running.terminate()
    assert (ending.status, ending.seconds < STOP_SECONDS) == (0, True), ending


@pytest.mark.parametrize("parts", [("kafka-1",), ("postgres",)], ids=str)
def test_a_drain_of_dagster_ends_in_time_whatever_hangs(
    own_stack: Stack, market: Market, start: Callable[[Sequence[str]], Running], parts: Sequence[str]
) -> None:
    market.publish(market.exchanges[0], 20_000)
    market.settings = market.settings.model_copy(update={"ingest_batch_rows": 500})
    running = start(["-c", DRAIN, market.exchanges[0]])
    assert wait_until(lambda: running.says("commit "), START_SECONDS)
    with frozen(own_stack, *parts):
        time.sleep(FROZEN_SECONDS)
        ending = running.terminate()
    assert ending.seconds < STOP_SECONDS, ending
    assert "interrupted" in ending.output, ending


def test_a_lock_that_somebody_holds_does_not_keep_the_process(
    market: Market, start: Callable[[Sequence[str]], Running]
) -> None:
    running = start(ingest("--exchange", market.exchanges[0]))
    published = market.publish(market.exchanges[0])
    assert wait_until(lambda: landed(market.settings) >= published, START_SECONDS)
    with closing(Database(market.settings)) as database, table_lock(database, "market_data.ticks"):
        market.publish(market.exchanges[0], seed=8)
        time.sleep(FROZEN_SECONDS)
        ending = running.terminate()
    assert (ending.status, ending.seconds < STOP_SECONDS) == (0, True), ending
    assert "lock k2:commit:market_data.ticks" in ending.output
    assert f"{os.getpid()}" in ending.output


def test_a_stop_before_the_first_turn_ends_at_once(
    market: Market, start: Callable[[Sequence[str]], Running], own_stack: Stack
) -> None:
    with frozen(own_stack, "postgres"):
        running = start(ingest())
        time.sleep(FROZEN_SECONDS)
        ending = running.terminate()
    assert ending.seconds < STOP_SECONDS, ending
    assert ending.status in (0, 3, -signal.SIGTERM), ending
