"""How any part is brought up, with a small server in place of a large one."""

import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from k2_dagster.devstack import part as part_module
from k2_dagster.devstack.part import Part
from k2_dagster.devstack.process import Command, Progress, is_over, listens, stop, wait_until
from k2_dagster.devstack.state import find_free_port
from k2_dagster.errors import StackFailed

LISTEN = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(60)"
IDLE = "import time; print('still thinking', flush=True); time.sleep(60)"
END = "print('cannot go on'); raise SystemExit(1)"


class SmallPart(Part):
    """A server that listens and does nothing else, or a program that does not get so far."""

    def __init__(self, home: Path, program: str) -> None:
        super().__init__("small", home)
        self.code = program
        self.program = Path(sys.executable).name
        self.port = find_free_port(set())

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def ports(self) -> Sequence[int]:
        return (self.port,)

    @property
    def marker(self) -> str:
        return str(self.port)

    def prepare(self, progress: Progress) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def command(self) -> Command:
        return Command([sys.executable, "-c", self.code, str(self.port)], self.folder, self.marker)

    def answers(self, process: psutil.Process) -> bool:
        return process.status() != psutil.STATUS_STOPPED and listens(process, self.port)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallPart]:
    part = SmallPart(tmp_path, LISTEN)
    yield part
    running = part.find()
    if running is not None:
        stop(running, part.purge_signals)


def test_a_running_part_is_reused_and_a_killed_one_started(small: SmallPart) -> None:
    assert small.ensure(lambda _: None)
    assert not small.ensure(lambda _: None)
    first = small.find()
    assert first is not None

    stop(first, [(signal.SIGKILL, 5.0)])

    assert small.ensure(lambda _: None)


def test_a_part_whose_record_is_lost_is_not_started_twice(small: SmallPart) -> None:
    small.ensure(lambda _: None)
    first = small.find()
    small.record.unlink()

    assert not small.ensure(lambda _: None)
    assert small.find() == first


def test_a_start_that_is_interrupted_ends_soon_and_the_next_goes_on(small: SmallPart) -> None:
    small.code = IDLE
    interrupted = small.interrupted
    threading.Timer(0.5, interrupted.set).start()
    began = time.monotonic()

    with pytest.raises(StackFailed, match=r"small: interrupted\n.*`k2 dev up` goes on"):
        small.ensure(lambda _: None)
    assert time.monotonic() - began < 5.0


def test_a_slow_start_says_what_it_waits_for(small: SmallPart, monkeypatch: pytest.MonkeyPatch) -> None:
    small.code = f"import time; time.sleep(2); {LISTEN}"
    monkeypatch.setattr(part_module, "TELL_SECONDS", 0.5)
    said: list[str] = []

    assert small.ensure(said.append)

    assert said[0] == "small starts; waiting until it answers"
    assert any("does not answer yet, after" in line for line in said)
    assert "answers at 127.0.0.1" in said[-1]


def test_a_part_that_ends_at_its_start_is_quoted(small: SmallPart) -> None:
    small.code = END

    with pytest.raises(StackFailed, match=r"(?s)small ended while it started.*cannot go on.*k2 dev up"):
        small.ensure(lambda _: None)


def test_a_failure_that_passes_is_tried_again(
    small: SmallPart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    small.code = f"import pathlib; f = pathlib.Path({str(flag)!r})\nif not f.exists(): f.touch(); {END}\n{LISTEN}"
    monkeypatch.setattr(SmallPart, "passing_failures", ("cannot go on",))

    assert small.ensure(lambda _: None)


def test_a_part_that_never_answers_is_ended(small: SmallPart, monkeypatch: pytest.MonkeyPatch) -> None:
    small.code = IDLE
    monkeypatch.setattr(part_module, "START_TIMEOUT_SECONDS", 1.0)

    with pytest.raises(StackFailed, match=r"(?s)did not answer at 127.0.0.1:.*still thinking"):
        small.ensure(lambda _: None)
    assert small.find() is None


def test_a_part_that_hangs_is_restarted(small: SmallPart, monkeypatch: pytest.MonkeyPatch) -> None:
    small.ensure(lambda _: None)
    hung = small.find()
    assert hung is not None
    hung.suspend()
    # the signal is on its way when the call returns
    assert wait_until(lambda: hung.status() == psutil.STATUS_STOPPED, 5.0)
    monkeypatch.setattr(part_module, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(part_module, "START_TIMEOUT_SECONDS", 5.0)
    said: list[str] = []

    assert small.ensure(said.append)

    assert is_over(hung)
    assert "runs and does not answer yet" in said[0]
    assert "does not answer: restarting it" in said[1]
