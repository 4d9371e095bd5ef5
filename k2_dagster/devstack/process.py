"""Processes of the stack: started as daemons, found again by identity, stopped without leaving one behind.

A started process is remembered in a record file (pid, creation time, marker). A pid alone proves nothing, because pids
are reused: a process is ours when it was created when we say, and its command line holds the marker.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from k2_dagster.errors import StackFailed

Progress = Callable[[str], None]

POLL_SECONDS = 0.05
"""Pause between two looks at a condition: short beside the quickest part's start (0.1 s)."""

CREATION_TOLERANCE_SECONDS = 2.0
"""The system derives creation times from the boot time, which moves by fractions of a second when the clock is set."""

LOCK_TIMEOUT_SECONDS = 600.0
"""Longest wait for another process on the same folder: it may be downloading 150 MB or building the S3 server."""

ORPHAN_SECONDS = 1.0
"""PostgreSQL's children notice within milliseconds that their parent is gone, and end by themselves."""

KILL_SECONDS = 10.0
"""SIGKILL takes effect at once, unless the kernel holds the process in a disk write."""

LOG_TAIL_LINES = 15
"""Log lines shown with a failure: enough for a Java exception's head, short enough to read."""

LOG_TAIL_BYTES = 64 * 1024
"""Most of a log that is read to find its last lines."""

LOG_KEEP_BYTES = 20 * 1024 * 1024
"""A longer log is set aside (one generation) when its part is started."""

INHERITED_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "USER", "LOGNAME")
"""What a part sees of our environment. Not more: JAVA_TOOL_OPTIONS, QUARKUS_*, PG* and AWS_* would reconfigure it."""

_DAEMONISE = '"$@" 1>&2 & echo $!'


@dataclass(frozen=True)
class Command:
    """How a part is started. `marker` must occur in the command line and in no other process's."""

    arguments: Sequence[str]
    folder: Path
    marker: str
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None


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


def run_tool(command: Command, timeout_seconds: float, what: str) -> str:
    """Run a program to its end and return its output. Raises StackFailed with the last lines when it fails."""
    try:
        done = subprocess.run(
            list(command.arguments),
            cwd=command.folder,
            env=clean_environment(command.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
            user=command.user,
            group=command.user,
            extra_groups=_groups(command.user),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackFailed(f"{what} failed: {error}") from error
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-LOG_TAIL_LINES:])
        raise StackFailed(f"{what} ended with status {done.returncode}:\n{tail}")
    return done.stdout


def spawn(command: Command, log: Path, record: Path) -> psutil.Process:
    """Start a daemon in a session of its own and remember it. A shell in between keeps it from being our child, so
    that no zombie is left when it dies. Raises StackFailed when the program cannot be started."""
    _set_aside(log)
    with log.open("ab") as log_file:
        try:
            shell = subprocess.run(
                ["/bin/sh", "-c", _DAEMONISE, "sh", *command.arguments],
                cwd=command.folder,
                env=clean_environment(command.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                start_new_session=True,
                check=True,
                user=command.user,
                group=command.user,
                extra_groups=_groups(command.user),
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise StackFailed(f"{command.arguments[0]} cannot be started: {error}") from error
    try:
        process = psutil.Process(int(shell.stdout))
        created = process.create_time()
    except psutil.NoSuchProcess as error:
        raise StackFailed(f"{command.arguments[0]} ended at once:\n{last_lines(log)}") from error
    write_atomically(record, json.dumps({"pid": process.pid, "created": created, "marker": command.marker}))
    return process


def find(record: Path) -> Found | None:
    """The process of a record if it still runs and is the one that we started."""
    try:
        noted = json.loads(record.read_text())
        process = psutil.Process(int(noted["pid"]))
        created = process.create_time()
        same = abs(created - float(noted["created"])) < CREATION_TOLERANCE_SECONDS
        # One that is dying, with threads that hold its ports, has no command line any more
        dying = process.status() == psutil.STATUS_ZOMBIE
        if not same or is_over(process) or not (dying or noted["marker"] in " ".join(process.cmdline())):
            return None
    except (FileNotFoundError, ValueError, TypeError, KeyError, psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return Found(process, time.time() - created)


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


def last_lines(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log, or a note that there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"


def write_atomically(path: Path, text: str) -> None:
    """Write a file that only its owner may read, so that a reader sees the old content or the new, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.touch(mode=0o600)
    partial.write_text(text)
    partial.replace(path)


@contextlib.contextmanager
def exclusive(path: Path, progress: Progress | None = None) -> Iterator[None]:
    """Hold a file lock between processes and threads. The system releases it when the holder dies."""
    with contextlib.ExitStack() as held:
        if not _try_lock(path, held):
            if progress is not None:
                progress(f"waiting for another process that holds {path}")
            if not wait_until(lambda: _try_lock(path, held), LOCK_TIMEOUT_SECONDS):
                raise StackFailed(
                    f"{path} is still held by another process after {LOCK_TIMEOUT_SECONDS:.0f} s",
                    advice="look for another `k2 dev` that hangs",
                )
        yield


def _try_lock(path: Path, held: contextlib.ExitStack) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as mine:
        file = mine.enter_context(path.open("a"))
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A holder may have removed the file with its folder: then this is a lock on nothing
            if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                return False
        except (BlockingIOError, FileNotFoundError):
            return False
        held.push(mine.pop_all())
    return True


def _groups(user: str | None) -> list[str] | None:
    """Another user does not keep the groups that we are in."""
    return None if user is None else []


def _set_aside(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_KEEP_BYTES:
        log.replace(log.with_name(log.name + ".1"))
