"""A worker that dies by SIGKILL at any point, and another one after it: each message lands once, each gap is filled."""

import os
import signal
import subprocess
import sys
from collections import Counter

import pytest

from k2_dagster.observability.points import RECOVERY_POINTS
from k2_dagster.settings import as_environment
from tests.conftest import REPOSITORY
from tests.feeds.recovery.conftest import Recoverable
from tests.feeds.recovery.faking import FakeSource

pytestmark = pytest.mark.stack

CHILD_SECONDS = 60.0
# Copies of the twenty numbers that come again when the next worker has not seen how the first ended.
COPIES = {"recovery.asked": 0, "recovery.fetched": 0, "recovery.published": 20, "recovery.recorded": 0}


def killed(exchange: Recoverable, point: str) -> None:
    """Recover in a process of its own that kills itself there."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("K2_")}
    command = [sys.executable, "-m", "tests.feeds.recovery.killed_recovery", point, exchange.name]
    done = subprocess.run(
        command, env=environment | as_environment(exchange.settings), cwd=REPOSITORY, capture_output=True,
        timeout=CHILD_SECONDS,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("landed_between", [False, True])
@pytest.mark.parametrize("point", RECOVERY_POINTS)
def test_killed_at_any_point_and_done_again_is_as_if_nothing_had_happened(
    with_gap: Recoverable, point: str, landed_between: bool
) -> None:
    killed(with_gap, point)
    if landed_between:
        with_gap.drain()
    with_gap.recover(FakeSource())
    with_gap.recover(FakeSource())
    assert with_gap.sequences() == list(range(1, 61))
    gap = with_gap.gap()
    assert (gap["state"], gap["filled"]) == ("filled", 20)
    events = with_gap.events()
    assert events[0] == ("request", 1)
    assert len(events) == len(set(events)) == (1 if point == "recovery.published" and landed_between else 2)
    # what landed before the next worker looked is not even fetched again
    copies = {} if landed_between or not COPIES[point] else {"duplicate": COPIES[point]}
    assert Counter(row["reason"] for row in with_gap.landed("quarantine")) == copies


def test_killed_again_and_again(with_gap: Recoverable) -> None:
    for point in RECOVERY_POINTS * 2:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("K2_")}
        command = [sys.executable, "-m", "tests.feeds.recovery.killed_recovery", point, with_gap.name]
        subprocess.run(
            command, env=environment | as_environment(with_gap.settings), cwd=REPOSITORY, timeout=CHILD_SECONDS,
            check=False,
        )  # fmt: skip
    with_gap.recover(FakeSource())
    assert with_gap.sequences() == list(range(1, 61))
    assert with_gap.gap()["state"] == "filled"
