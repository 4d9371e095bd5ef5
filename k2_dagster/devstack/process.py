"""Processes of the stack: started as daemons, found again by identity, stopped without leaving one behind.

A started process is remembered in a record file (pid, creation time, marker). A pid alone proves nothing, because pids
are reused: a process is ours when it was created when we say, and its command line holds the marker.
"""

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from k2_dagster.devstack.files import LOG_TAIL_LINES, last_lines, set_aside, write_atomically
from k2_dagster.errors import StackFailed

Progress = Callable[[str], None]

POLL_SECONDS = 0.05
"""Pause between two looks at a condition: short beside the quickest part's start (0.1 s)."""

CREATION_TOLERANCE_SECONDS = 2.0
"""The system derives creation times from the boot time, which moves by fractions of a second when the clock is set."""

ORPHAN_SECONDS = 1.0
"""PostgreSQL's children notice within milliseconds that their parent is gone, and end by themselves."""

KILL_SECONDS = 10.0
"""SIGKILL takes effect at once, unless the kernel holds the process in a disk write."""

INHERITED_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "USER", "LOGNAME")
"""What a part sees of our environment. Not more: JAVA_TOOL_OPTIONS, QUARKUS_*, PG* and AWS_* would reconfigure it."""

TELL_SECONDS = 10.0
"""What takes longer than usual says so this often."""

TOOL_POLL_SECONDS = 0.2
"""Pause between two looks at whether a tool should be ended, as it was interrupted."""

_DAEMONISE = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
owner, program = sys.argv[1], sys.argv[2:]
pid = os.fork()
if pid:
    os.write(1, str(pid).encode())
    os._exit(0)
os.dup2(2, 1)
if owner:
    uid, gid = map(int, owner.split(":"))
    os.setgroups([]); os.setgid(gid); os.setuid(uid)
os.execvp(program[0], program)
"""
"""Starts a program that is not our child. Not a shell's `&`, which makes the program ignore SIGINT for ever: Dagster's
code server takes its answer to SIGTERM from there, and would never end by it."""
_ISOLATED = ("-I", "-S", "-c")


@dataclass(frozen=True)
class Command:
    """How a part is started. `marker` must occur in the command line and in no other process's."""

    arguments: Sequence[str]
    folder: Path
    marker: str
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None


class RecordLost(Exception):
    """There is no record of a process that can be read."""


@dataclass(frozen=True)
class Found:
    """A running process that was started by us, with the time since its creation."""

    process: psutil.Process
    age_seconds: float


def wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Poll until the condition holds (True) or the time is over (False). It is tried at least once."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def clean_environment(additions: Mapping[str, str]) -> dict[str, str]:
    """The few inherited variables with the additions."""
    inherited = {name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ}
    return inherited | dict(additions)


def run_tool(
    command: Command,
    timeout_seconds: float,
    what: str,
    interrupted: threading.Event | None = None,
    progress: Progress | None = None,
) -> str:
    """Run a program to its end and return its output. Raises StackFailed with the last lines when it fails, or when it
    is interrupted; it is killed then. `progress` is told from time to time how long it has taken."""
    try:
        process = subprocess.Popen(
            list(command.arguments),
            cwd=command.folder,
            env=clean_environment(command.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            user=command.user,
            group=command.user,
            extra_groups=_groups(command.user),
        )
    except OSError as error:
        raise StackFailed(f"{what} failed: {error}") from error
    output = _output(process, timeout_seconds, what, interrupted, progress)
    if process.returncode != 0:
        tail = "\n".join(output.splitlines()[-LOG_TAIL_LINES:])
        raise StackFailed(f"{what} ended with status {process.returncode}:\n{tail}")
    return output


def _output(
    process: "subprocess.Popen[str]",
    timeout_seconds: float,
    what: str,
    interrupted: threading.Event | None,
    progress: Progress | None,
) -> str:
    began = told = time.monotonic()
    deadline = began + timeout_seconds
    with process:
        while True:
            try:
                return process.communicate(timeout=TOOL_POLL_SECONDS)[0]
            except subprocess.TimeoutExpired:
                stopped = interrupted is not None and interrupted.is_set()
                if stopped or time.monotonic() > deadline:
                    process.kill()
                    why = "was interrupted" if stopped else f"did not end within {timeout_seconds:.0f} s"
                    raise StackFailed(f"{what} {why}") from None
                if progress is not None and time.monotonic() - told > TELL_SECONDS:
                    told = time.monotonic()
                    progress(f"{what}: {told - began:.0f} s")
            except BaseException:
                process.kill()
                raise


def spawn(command: Command, log: Path, record: Path) -> psutil.Process:
    """Start a daemon in a session of its own and remember it. A process in between keeps it from being our child, so
    that no zombie is left when it dies. Raises StackFailed when the program cannot be started."""
    set_aside(log)
    with log.open("ab") as log_file:
        try:
            between = subprocess.run(
                # It becomes the command's user by itself: that user may not be able to run our Python
                [sys.executable, *_ISOLATED, _DAEMONISE, _owner(command.user), *command.arguments],
                cwd=command.folder,
                env=clean_environment(command.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                start_new_session=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise StackFailed(f"{command.arguments[0]} cannot be started: {error}") from error
    try:
        process = psutil.Process(int(between.stdout))
        created = process.create_time()
    except psutil.NoSuchProcess as error:
        raise StackFailed(f"{command.arguments[0]} ended at once:\n{last_lines(log)}") from error
    _note(record, process, created, command.marker)
    return process


def find(record: Path) -> Found | None:
    """The process of a record if it still runs and is the one that we started. Raises RecordLost when there is no
    record, or none that can be read."""
    try:
        noted = json.loads(record.read_text())
        pid, since, marker = int(noted["pid"]), float(noted["created"]), str(noted["marker"])
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        raise RecordLost from error
    try:
        process = psutil.Process(pid)
        created = process.create_time()
        same = abs(created - since) < CREATION_TOLERANCE_SECONDS
        # One that is dying, with threads that hold its ports, has no command line any more
        dying = process.status() == psutil.STATUS_ZOMBIE
        if not same or is_over(process) or not (dying or marker in " ".join(process.cmdline())):
            return None
    except (ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return Found(process, time.time() - created)


def adopt(program: str, marker: str, record: Path) -> Found | None:
    """The running process of that program (a file's name) whose command line has the marker, noted again: for a record
    that was lost. The oldest, as a child may have the same command line for a moment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            is_between = tuple(words[1:4]) == _ISOLATED
            if words and Path(words[0]).name == program and marker in " ".join(words) and not is_between:
                found.append((process.create_time(), process))
    if not found:
        return None
    created, process = min(found, key=lambda one: one[0])
    _note(record, process, created, marker)
    return Found(process, time.time() - created)


def _note(record: Path, process: psutil.Process, created: float, marker: str) -> None:
    write_atomically(record, json.dumps({"pid": process.pid, "created": created, "marker": marker}))


def is_over(process: psutil.Process) -> bool:
    """Whether the process has ended and let go of its ports and files. A zombie has, once its last thread is gone: that
    of a killed JVM may outlive the first by milliseconds, and holds everything."""
    try:
        if not process.is_running():
            return True
        return bool(process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1)
    except psutil.NoSuchProcess:
        return True


def stop(process: psutil.Process, signals: Sequence[tuple[signal.Signals, float]]) -> None:
    """Send each signal in turn and wait its seconds, until the process has ended. What its children have not ended
    by themselves shortly after is killed."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for number, timeout_seconds in signals:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        if wait_until(lambda: is_over(process), timeout_seconds):
            break
    if wait_until(lambda: all(is_over(member) for member in family), ORPHAN_SECONDS):
        return
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    wait_until(lambda: all(is_over(member) for member in family), KILL_SECONDS)


def listens(process: psutil.Process, port: int) -> bool:
    """Whether the process itself is the one that listens on the port."""
    try:
        connections = process.net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(item.status == psutil.CONN_LISTEN and item.laddr.port == port for item in connections)


def memory_megabytes(process: psutil.Process) -> float:
    """Resident memory of a process with what its children hold for themselves (pages shared with it count once)."""
    try:
        children = process.children(recursive=True)
        total: int = process.memory_info().rss
    except psutil.Error:
        return 0.0
    for child in children:
        with contextlib.suppress(psutil.Error):
            total += child.memory_full_info().uss
    return total / 1e6


def _groups(user: str | None) -> list[str] | None:
    """Another user does not keep the groups that we are in."""
    return None if user is None else []


def _owner(user: str | None) -> str:
    if user is None:
        return ""
    entry = pwd.getpwnam(user)
    return f"{entry.pw_uid}:{entry.pw_gid}"
