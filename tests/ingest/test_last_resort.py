"""Work that does not end when it is told to is left behind, a little later in the middle of an append."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from k2_dagster.cli.exits import CUT_SHORT
from k2_dagster.errors import QueryRefused, StopOverdue
from k2_dagster.ingest import last_resort
from k2_dagster.ingest.last_resort import stoppable
from k2_dagster.observability.stopping import APPENDING

# `k2 ingest` with a loop that waits in foreign code, as for object storage that does not answer.
DEAF = """
import sys, time
from k2_dagster.cli import ingest, main
def deaf(*_):
    sys.stderr.write("waiting\\n")
    sys.stderr.flush()
    time.sleep(600)
ingest_module = __import__("k2_dagster.cli.ingest", fromlist=["run"])
ingest_module.run = deaf
main(["ingest"])
"""
FOREVER_SECONDS = 30.0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_resort, "STOP_SECONDS", 0.3)
    monkeypatch.setattr(last_resort, "APPEND_SECONDS", 1.5)


def test_what_the_work_returns_and_raises_comes_through() -> None:
    stop = threading.Event()
    assert stoppable(lambda: 7, stop) == 7

    def refuse() -> None:
        raise QueryRefused("no")

    with pytest.raises(QueryRefused):
        stoppable(refuse, stop)


def test_the_work_is_not_cut_while_nobody_stops_it(impatient: None) -> None:
    assert stoppable(lambda: time.sleep(1.0), threading.Event()) is None


def overdue_after(body: threading.Event, stop: threading.Event) -> float:
    began = time.monotonic()
    with pytest.raises(StopOverdue):
        stoppable(lambda: body.wait(FOREVER_SECONDS), stop)
    return time.monotonic() - began


def test_work_that_does_not_listen_is_left_behind(impatient: None) -> None:
    stop, ended = threading.Event(), threading.Event()
    stop.set()
    assert 0.3 <= overdue_after(ended, stop) < 5.0
    ended.set()


def test_an_append_is_waited_for_longer_but_not_for_ever(impatient: None) -> None:
    stop, ended = threading.Event(), threading.Event()
    stop.set()
    with APPENDING.entered():
        assert overdue_after(ended, stop) >= 1.5
    ended.set()


def test_the_process_ends_with_its_own_status_whatever_its_threads_do() -> None:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("K2_")}
    with subprocess.Popen([sys.executable, "-c", DEAF], env=plain, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            while "waiting" not in (line := process.stderr.readline()):
                assert line, "it ended by itself"
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            said = process.stderr.read()
            assert process.wait(FOREVER_SECONDS) == CUT_SHORT
        finally:
            process.kill()
    assert time.monotonic() - began < 5.0 + 1.0
    assert "nothing is lost" in said
