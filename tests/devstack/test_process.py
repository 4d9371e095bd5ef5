"""Daemons: found by identity, stopped with their children, locks that outlive their folder."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from k2_dagster.devstack.files import last_lines, write_atomically
from k2_dagster.devstack.locking import exclusive
from k2_dagster.devstack.process import Command, RecordLost, adopt, find, is_over, run_tool, spawn, stop, wait_until
from k2_dagster.errors import StackFailed

PARENT_WITH_CHILD = (
    "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"
)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[psutil.Process]:
    """A process with a child that wrote `up` to its log."""
    arguments = [sys.executable, "-c", PARENT_WITH_CHILD, str(tmp_path)]
    process = spawn(Command(arguments, tmp_path, str(tmp_path)), tmp_path / "log", tmp_path / "record.json")
    assert wait_until(lambda: "up" in last_lines(tmp_path / "log"), 10)
    yield process
    stop(process, [(signal.SIGKILL, 5.0)])


def test_a_daemon_is_not_our_child_and_is_found_again(daemon: psutil.Process, tmp_path: Path) -> None:
    found = find(tmp_path / "record.json")

    assert found is not None
    assert found.process.pid == daemon.pid
    assert daemon.ppid() != os.getpid()
    assert os.getsid(daemon.pid) != os.getsid(0)


@pytest.mark.parametrize("change", [{"created": 0.0}, {"marker": "something else"}, {"pid": 2**22 + 1}])
def test_a_reused_pid_is_not_taken_for_ours(daemon: psutil.Process, tmp_path: Path, change: dict[str, object]) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | change))

    assert find(record) is None


@pytest.mark.parametrize("pid", [0, -1, -17])
def test_a_number_that_is_no_pid_finds_nothing(daemon: psutil.Process, tmp_path: Path, pid: int) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"pid": pid}))

    assert find(record) is None


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"pid": "x"}'])
def test_a_lost_record_is_told_and_its_process_found_by_what_it_is(
    daemon: psutil.Process, tmp_path: Path, content: str | None
) -> None:
    record = tmp_path / "record.json"
    record.unlink() if content is None else record.write_text(content)

    with pytest.raises(RecordLost):
        find(record)
    found = adopt(Path(sys.executable).name, str(tmp_path), record)

    assert found is not None
    assert found.process.pid == daemon.pid
    again = find(record)
    assert again is not None
    assert again.process.pid == daemon.pid


def test_nobody_else_is_adopted(daemon: psutil.Process, tmp_path: Path) -> None:
    assert adopt("java", str(tmp_path), tmp_path / "other.json") is None
    assert adopt(Path(sys.executable).name, "marker of nobody", tmp_path / "other.json") is None
    assert not (tmp_path / "other.json").exists()


def test_a_daemon_answers_to_signals_as_usual(daemon: psutil.Process) -> None:
    """A program that a shell starts with `&` ignores SIGINT; Dagster's code server would then ignore SIGTERM too."""
    status = Path(f"/proc/{daemon.pid}/status")
    if not status.exists():
        pytest.skip("this system has no /proc")
    (ignored,) = [int(line.split()[1], 16) for line in status.read_text().splitlines() if line.startswith("SigIgn")]
    numbers = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)

    assert [one for one in numbers if ignored & 1 << (one - 1)] == []


def test_stop_ends_the_children_too(daemon: psutil.Process, tmp_path: Path) -> None:
    family = [daemon, *daemon.children()]
    assert len(family) == 2

    stop(daemon, [(signal.SIGTERM, 0.2), (signal.SIGKILL, 5.0)])

    assert all(is_over(member) for member in family)
    assert find(tmp_path / "record.json") is None


def test_a_daemon_does_not_see_variables_that_would_reconfigure_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx1m")

    shown = run_tool(Command(["/usr/bin/env"], tmp_path, "", {"MINE": "1"}), 10, "showing the environment")

    assert "MINE=1" in shown.splitlines()
    assert "JAVA_TOOL_OPTIONS" not in shown


def test_a_failing_tool_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(StackFailed, match=r"trying ended with status 3:\nno luck"):
        run_tool(Command(["/bin/sh", "-c", "echo no luck >&2; exit 3"], tmp_path, ""), 10, "trying")


def test_a_tool_that_is_interrupted_is_ended(tmp_path: Path) -> None:
    interrupted = threading.Event()
    threading.Timer(0.3, interrupted.set).start()
    began = time.monotonic()

    with pytest.raises(StackFailed, match="sleeping was interrupted"):
        run_tool(Command(["/bin/sleep", "60"], tmp_path, ""), 60, "sleeping", interrupted)
    assert time.monotonic() - began < 5.0


HOLDER = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"


def test_the_lock_waits_for_another_process_and_says_so(tmp_path: Path) -> None:
    lock, inside, said = tmp_path / "lock", threading.Event(), list[str]()

    def enter() -> None:
        with exclusive(lock, said.append):
            inside.set()

    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        waiting = threading.Thread(target=enter)
        waiting.start()
        assert wait_until(lambda: said != [], 10)
        assert not inside.is_set()
        holder.communicate(b"\n")
    waiting.join(10)

    assert inside.is_set()
    assert said == [f"waiting for another process that holds {lock}"]


def test_threads_of_one_process_wait_for_each_other_in_silence(tmp_path: Path) -> None:
    lock, inside, most, said = tmp_path / "lock", list[int](), list[int](), list[str]()

    def enter() -> None:
        with exclusive(lock, said.append):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.1)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert most == [1, 1, 1]
    assert said == []


def test_a_lock_on_a_removed_file_is_not_a_lock(tmp_path: Path) -> None:
    lock, entered = tmp_path / "folder" / "lock", threading.Event()

    def enter() -> None:
        with exclusive(lock):
            assert lock.exists()
            entered.set()

    with exclusive(lock):
        waiting = threading.Thread(target=enter)
        waiting.start()
        lock.unlink()
    waiting.join(10)

    assert entered.is_set()


def test_files_are_written_whole_and_for_their_owner_only(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new" / "file", "text")

    assert (tmp_path / "new" / "file").read_text() == "text"
    assert (tmp_path / "new" / "file").stat().st_mode & 0o077 == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
