"""Ingest workers that die on command.

`python -m proofs.worker` imports everything once and forks a worker per job, so that a kill costs tens of milliseconds
and not an interpreter's start. Jobs come as JSON lines on standard input, what became of them goes to standard output.
Forking is safe here: the parent opens no connection and computes nothing; the threads that libraries start on import
(allocators) have their own fork handlers. When standard input ends, every worker is killed.
"""

import json
import logging
import os
import selectors
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from k2_dagster.errors import DatabaseUnavailable, K2Error, TransientError
from k2_dagster.ingest import warm
from k2_dagster.ingest.commit import CommitReport
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.drain import drain_exchange
from k2_dagster.ingest.stream import StreamDrain
from k2_dagster.lake import expiry
from k2_dagster.observability.points import arm
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import load_settings

# A worker that has caught up looks again this soon: the producers never rest.
IDLE_SECONDS = 0.02
# Expiry comes when so many snapshots have gathered instead of fifty, so that lives of a few seconds see it.
EXPIRY_SLACK = 3
# Opened by the selector of the fork loop; longer only delays the news of a death that no signal told.
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """What one worker does. `action` happens at the `reach`-th time that `point` is reached; None: nothing does.

    `driver`: "process" keeps its streams, as `k2 ingest`; "run" opens them anew each round, as Dagster's runs;
    "once" drains until caught up and ends.
    """

    number: int
    exchange: str
    environment: dict[str, str]
    report: str
    log: str
    driver: Literal["process", "run", "once"] = "process"
    action: Literal["kill", "stop", "lose_answer"] | None = None
    point: str = ""
    reach: int = 1
    datasets: tuple[str, ...] | None = None


@dataclass
class WorkerReport:
    """What a worker says of itself when it ends by itself."""

    commits: int = 0
    rows: int = 0
    quarantined: int = 0
    error: str = ""
    transient: bool = False
    text: str = ""
    reached: dict[str, int] = field(default_factory=dict)


def main() -> None:
    """Fork workers until standard input ends."""
    children: dict[int, int] = {}
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
    selector.register(wake_read, selectors.EVENT_READ)
    pending = b""
    # Loading the compiled kernels takes longer than all the rest of a worker's start, and starts no thread
    warm.load_kernels()
    _tell(event="ready")
    while True:
        for key, _ in selector.select(POLL_SECONDS):
            data = os.read(key.fd, 65_536)
            if key.fd == wake_read:
                continue
            if not data:
                _kill_all(children)
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                _start(Job(**json.loads(line)), children)
        _reap(children)


def _start(job: Job, children: dict[int, int]) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = _run(job)
        finally:
            os._exit(status)
    children[pid] = job.number
    _tell(event="started", number=job.number, pid=pid)


def _reap(children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            _tell(event="stopped", number=children[pid])
            continue
        number = children.pop(pid)
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        _tell(event="ended", number=number, signal=killed, status=0 if killed else os.WEXITSTATUS(status))


def _kill_all(children: dict[int, int]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)


def _tell(**event: Any) -> None:
    os.write(1, json.dumps(event).encode() + b"\n")


def _run(job: Job) -> int:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: stop.set())
    output = os.open(job.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    logging.basicConfig(level=logging.WARNING, format=f"%(asctime)s worker {job.number} %(name)s %(message)s")
    report = WorkerReport()
    arm(_action(job, report.reached))
    try:
        _drain(job, stop, report)
    except K2Error as error:
        report.error, report.text = type(error).__name__, error.message
        report.transient = isinstance(error, TransientError)
    except BaseException as error:  # noqa: BLE001  (the death of a worker by anything else is what a proof looks for)
        report.error, report.text = type(error).__name__, traceback.format_exc()
    Path(job.report).write_text(json.dumps(asdict(report)))
    return 1 if report.error else 0


def _action(job: Job, seen: dict[str, int]) -> Callable[[str], None]:
    def at(point: str) -> None:
        seen[point] = seen.get(point, 0) + 1
        if job.action is None or point != job.point or seen[point] != job.reach:
            return
        if job.action == "lose_answer":
            raise DatabaseUnavailable("the answer to the commit was lost", advice="planted by the proof")
        os.kill(os.getpid(), signal.SIGKILL if job.action == "kill" else signal.SIGSTOP)

    return at


def _drain(job: Job, stop: threading.Event, report: WorkerReport) -> None:
    settings = load_settings(job.environment)
    profiles = load_profiles(settings.profiles)
    expiry.EXPIRY_SLACK = EXPIRY_SLACK

    def count(commit: CommitReport) -> None:
        report.commits += 1
        report.rows += commit.rows
        report.quarantined += commit.quarantined

    datasets = job.datasets or profiles.exchange(job.exchange).datasets
    if job.driver == "process":
        with Connections.open(settings, profiles) as connections:
            streams = [StreamDrain(connections, job.exchange, one, f"worker-{job.number}") for one in datasets]
            while not stop.wait(IDLE_SECONDS):
                for stream in streams:
                    stream.drain(stop, None, count)
        return
    while not stop.wait(IDLE_SECONDS):
        done = drain_exchange(
            settings, profiles, job.exchange, datasets=datasets, cap_seconds=None, stop=stop,
            run_id=f"worker-{job.number}", on_commit=count,
        )  # fmt: skip
        if job.driver == "once" and done.caught_up:
            return


if __name__ == "__main__":
    main()
