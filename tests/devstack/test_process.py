"""Daemons: found by identity, stopped with their children, locks that outlive their folder."""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from k2_dagster.devstack.process import (
    Command,
    exclusive,
    find,
    is_over,
    last_lines,
    run_tool,
    spawn,
    stop,
    wait_until,
    write_atomically,
)
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


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"pid": "x"}'])
def test_a_damaged_record_finds_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)

    assert find(tmp_path / "record.json") is None


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


def test_the_lock_admits_one_at_a_time(tmp_path: Path) -> None:
    lock, inside, said = tmp_path / "lock", threading.Event(), list[str]()

    def enter() -> None:
        with exclusive(lock, said.append):
            inside.set()

    with exclusive(lock):
        waiting = threading.Thread(target=enter)
        waiting.start()
        assert wait_until(lambda: said != [], 10)
        assert not inside.is_set()
    waiting.join(10)

    assert inside.is_set()


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
