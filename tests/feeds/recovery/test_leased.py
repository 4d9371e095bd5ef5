"""One `k2 recover` for each exchange, as processes: a second one ends and names the first, a killed one is followed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from sqlalchemy import update

from k2_dagster.devstack.process import wait_until
from k2_dagster.settings import as_environment
from k2_dagster.state.leases import read_leases
from k2_dagster.state.tables import leases
from tests.conftest import REPOSITORY
from tests.feeds.recovery.conftest import MakeRecoverable, Recoverable
from tests.feeds.recovery.local_venue import Archive, serving

pytestmark = pytest.mark.stack

CHILD_SECONDS = 60.0
# Long enough that a busy machine does not miss all of its heartbeats.
STALE_SECONDS = 6.0
MISSED = [one for one in range(1, 61) if not 20 < one <= 40]


@pytest.fixture
def archive() -> Archive:
    return Archive(range(1, 100))


@pytest.fixture
def exchange(make_recoverable: MakeRecoverable, archive: Archive) -> Iterator[Recoverable]:
    with serving(archive) as url:
        made = make_recoverable("trade", url=url)
        made.settings = made.settings.model_copy(update={"lease_stale_seconds": STALE_SECONDS})
        yield made


@contextmanager
def child(exchange: Recoverable, *more: str) -> Iterator[subprocess.Popen[str]]:
    """`k2 recover` of the exchange."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("K2_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "k2_dagster.cli", "recover", exchange.name, *more],
        env=environment | as_environment(exchange.settings),
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def ended(exchange: Recoverable, *more: str) -> tuple[int, str]:
    """Status and words of a `k2 recover` that ends by itself."""
    with child(exchange, *more) as process:
        said, _ = process.communicate(timeout=CHILD_SECONDS)
        return process.returncode, said


def holder(exchange: Recoverable) -> str:
    """Who has the lease; empty when nobody."""
    found = read_leases(exchange.database, "recovery").get(exchange.name)
    return "" if found is None else found.holder


@contextmanager
def running(exchange: Recoverable) -> Iterator[subprocess.Popen[str]]:
    """One that has the lease."""
    with child(exchange) as process:
        assert wait_until(lambda: f":{process.pid}:" in holder(exchange), CHILD_SECONDS)
        yield process


def test_a_second_one_ends_and_names_the_first(exchange: Recoverable) -> None:
    with running(exchange) as first:
        for more in ((), ("--once",)):
            status, said = ended(exchange, *more)
            assert status == 3
            assert f"{exchange.name} is recovered by {holder(exchange)}" in said
        assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=CHILD_SECONDS)
    # given back: nobody has to wait until it is stale
    assert holder(exchange) == ""
    assert ended(exchange, "--once")[0] == 0


@contextmanager
def killed(exchange: Recoverable) -> Iterator[str]:
    """Something is missing, and whoever had the lease was killed while it had it; its name."""
    with running(exchange) as first:
        first.kill()
        first.wait()
    exchange.numbers_of(MISSED, stream="trade")
    yield holder(exchange)
    assert holder(exchange) == ""
    exchange.drain()
    assert exchange.gap()["state"] == "filled"


def test_one_that_was_killed_is_followed_at_once_on_the_same_machine(exchange: Recoverable, archive: Archive) -> None:
    exchange.settings = exchange.settings.model_copy(update={"lease_stale_seconds": 3_600.0})
    with killed(exchange) as name:
        status, said = ended(exchange, "--once")
        assert status == 0, said
        assert "the process that held it is gone" in said
        assert name in said
        assert len(archive.asked) == 1


def test_one_that_was_killed_elsewhere_is_followed_once_its_lease_is_stale(
    exchange: Recoverable, archive: Archive
) -> None:
    with killed(exchange) as name:
        elsewhere = f"elsewhere{name}"
        with exchange.database.begin() as connection:
            mine = (leases.c.exchange == exchange.name) & (leases.c.work == "recovery")
            connection.execute(update(leases).where(mine).values(holder=elsewhere))
        status, said = ended(exchange, "--once")
        assert status == 3
        while status == 3:
            assert f"is recovered by {elsewhere}" in said
            status, said = ended(exchange, "--once")
        assert status == 0, said
        # the venue was asked by one of them
        assert len(archive.asked) == 1


def test_one_that_hung_until_another_took_over_ends(exchange: Recoverable) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(running(exchange))
        first.send_signal(signal.SIGSTOP)
        assert wait_until(lambda: ended(exchange, "--once")[0] == 0, CHILD_SECONDS)
        second = stack.enter_context(running(exchange))
        first.send_signal(signal.SIGCONT)
        said, _ = first.communicate(timeout=CHILD_SECONDS)
        assert first.returncode == 3
        assert f"the lease of {exchange.name} was taken over" in said
        assert second.poll() is None


def test_recovery_keeps_nobody_from_ingesting(exchange: Recoverable) -> None:
    with running(exchange):
        assert read_leases(exchange.database) == {}
        exchange.numbers_of(MISSED, stream="trade")
        assert wait_until(lambda: ("recover", 1) in exchange.events(), CHILD_SECONDS)
