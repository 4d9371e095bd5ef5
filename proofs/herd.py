"""The proof's side of `proofs.worker`: starts, stops, kills and awaits workers."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from proofs.worker import Job, WorkerReport

# Importing everything takes three seconds on two idle cores.
READY_TIMEOUT_SECONDS = 120.0


@dataclass(eq=False)
class Worker:
    """A forked worker. `signal` is what it died of (0: it ended by itself, and `report` says how)."""

    job: Job
    pid: int | None = None
    started: float = 0.0
    stopped: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    signal: int = 0
    status: int = 0
    killed_from_outside: bool = False

    def send(self, number: int) -> None:
        """Signal the process, if it still runs."""
        if self.pid is not None and not self.ended.is_set():
            self.killed_from_outside |= number == signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    @property
    def report(self) -> WorkerReport | None:
        """What it said of itself; None when it was killed before it could."""
        path = Path(self.job.report)
        return WorkerReport(**json.loads(path.read_text())) if path.exists() else None


class Herd:
    """The fork server and its workers. Make it with `herd`."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process = process
        self.folder = folder
        self._numbers = 0
        self._workers: dict[int, Worker] = {}
        self.news: queue.Queue[Worker] = queue.Queue()
        self.ready = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="herd", daemon=True)
        self._listener.start()

    def start(self, exchange: str, environment: dict[str, str], **fields: Any) -> Worker:
        """Fork a worker; `fields` are those of Job."""
        self._numbers += 1
        number = self._numbers
        report, log = self.folder / f"worker-{number}.json", self.folder / "workers.log"
        job = Job(number, exchange, environment, str(report), str(log), **fields)
        worker = self._workers[number] = Worker(job, started=time.monotonic())
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(job)) + "\n")
        self._process.stdin.flush()
        return worker

    def close(self) -> None:
        """End the fork server, with every worker, and what listens to it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._listener.join()
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                self.ready.set()
                continue
            worker = self._workers[event["number"]]
            if event["event"] == "started":
                worker.pid = event["pid"]
            elif event["event"] == "stopped":
                worker.stopped.set()
            else:
                worker.signal, worker.status = event["signal"], event["status"]
                worker.ended.set()
            self.news.put(worker)


@contextmanager
def herd(folder: Path) -> Iterator[Herd]:
    """A fork server with its files in `folder`. Every worker dies with it."""
    folder.mkdir(parents=True, exist_ok=True)
    # One thread: a worker is small, and a pool of threads would not survive the fork
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-m", "proofs.worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    made = Herd(process, folder)
    try:
        if not made.ready.wait(READY_TIMEOUT_SECONDS):
            raise TimeoutError("the fork server did not come up")
        yield made
    finally:
        made.close()
