"""One part of the stack: what every part must tell, and the one way in which all of them are brought up."""

import shutil
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import psutil

from k2_dagster.devstack.files import last_lines
from k2_dagster.devstack.process import (
    KILL_SECONDS,
    POLL_SECONDS,
    TELL_SECONDS,
    Command,
    Found,
    Progress,
    RecordLost,
    adopt,
    find,
    is_over,
    spawn,
    stop,
    wait_until,
)
from k2_dagster.errors import StackFailed

START_TIMEOUT_SECONDS = 120.0
"""A broker needs 4 s on an idle machine and 26 s were seen for three of them on two busy cores."""

SILENT_SECONDS = 15.0
"""A part that lives but does not answer for this long, well after its start, hangs and is restarted."""

TERMINATE_SECONDS = 20.0
"""A broker's orderly end takes 1 to 5 s; three that end together may wait for each other."""


TEMPORARY = "temporary"


class Part(ABC):
    """A server process under a stack's home folder. Subclasses say how it is made, started and recognised."""

    stop_signals: ClassVar[Sequence[tuple[signal.Signals, float]]] = (
        (signal.SIGTERM, TERMINATE_SECONDS),
        (signal.SIGKILL, KILL_SECONDS),
    )
    passing_failures: ClassVar[Sequence[str]] = ()
    """Words in the log of a start that ended early for a reason that passes by itself."""

    program: str = "java"
    """The file name of the program that runs, by which it is found again when its record is lost."""

    purge_signals: ClassVar[Sequence[tuple[signal.Signals, float]]] = ((signal.SIGKILL, KILL_SECONDS),)

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self.home = home
        self.folder = home / name
        self.log = home / "logs" / f"{name}.log"
        self.record = home / "run" / f"{name}.json"
        self.interrupted = threading.Event()
        """Once set, whatever waits here stops, with StackFailed."""
        self.maven_repository: str | None = None
        """Where jars are fetched from; None is Maven Central."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where clients find it."""

    @property
    def marker(self) -> str:
        """What its command line has and no other process's: see `Command`."""
        return f"-Dk2.part={self.folder}"

    @property
    def ports(self) -> Sequence[int]:
        """TCP ports on 127.0.0.1 that it needs."""
        return ()

    @abstractmethod
    def prepare(self, progress: Progress) -> None:
        """Fetch programs and lay out folders and configuration. Keeps data that is there."""

    @abstractmethod
    def command(self) -> Command:
        """How to start it, after `prepare`."""

    @abstractmethod
    def answers(self, process: psutil.Process) -> bool:
        """Whether the server answers a real call and says that it is this very part, not a foreign one."""

    def settle(self) -> None:  # noqa: B027 - most parts have nothing to add
        """What must hold once it answers (databases, rules). Idempotent."""

    def java_options(self) -> list[str]:
        """Options of every Java part: temporary files (unpacked native libraries) go where we remove them, and no
        statistics file is left in the system's temporary folder."""
        return [f"-Djava.io.tmpdir={self.folder / TEMPORARY}", "-XX:-UsePerfData"]

    def make_folders(self) -> None:
        """The part's folder with an empty one for temporary files: a killed process leaves its own behind."""
        shutil.rmtree(self.folder / TEMPORARY, ignore_errors=True)
        (self.folder / TEMPORARY).mkdir(parents=True)

    def find(self) -> psutil.Process | None:
        """Its process, if it runs; also when the record of it was lost."""
        found = self._found()
        return None if found is None else found.process

    def _found(self) -> Found | None:
        try:
            return find(self.record)
        except RecordLost:
            return adopt(self.program, self.marker, self.record) if self.folder.exists() else None

    def ensure(self, progress: Progress) -> bool:
        """Bring it up, reusing what runs. Returns whether it had to be started. Raises StackFailed."""
        found = self._found()
        if found is not None and self._still_answers(found, progress):
            self.settle()
            return False
        began = time.monotonic()
        self.prepare(progress)
        self._refuse_interrupted()
        progress(f"{self.name} starts; waiting until it answers")
        self._start(progress)
        self.settle()
        progress(f"{self.name} answers at {self.address} after {time.monotonic() - began:.1f} s")
        return True

    def _still_answers(self, found: Found, progress: Progress) -> bool:
        """Whether a process that runs answers, in the end; one that does not is ended."""
        patience = max(SILENT_SECONDS, START_TIMEOUT_SECONDS - found.age_seconds)
        # Looked at again afterwards: one that was killed just now may still have answered
        if not is_over(found.process) and self.answers(found.process) and not is_over(found.process):
            return True
        if is_over(found.process):
            return False
        progress(f"{self.name} (pid {found.process.pid}) runs and does not answer yet: waiting up to {patience:.0f} s")

        def decided() -> bool:
            return is_over(found.process) or self.interrupted.is_set() or self.answers(found.process)

        if wait_until(decided, patience):
            self._refuse_interrupted()
            return not is_over(found.process)
        progress(f"{self.name} (pid {found.process.pid}) does not answer: restarting it")
        stop(found.process, self.purge_signals)
        return False

    def _refuse_interrupted(self) -> None:
        if self.interrupted.is_set():
            raise StackFailed(f"{self.name}: interrupted", advice="`k2 dev up` goes on where it was")

    def _start(self, progress: Progress) -> None:
        began = told = time.monotonic()
        deadline = began + START_TIMEOUT_SECONDS
        process = spawn(self.command(), self.log, self.record)
        while not self.answers(process):
            self._refuse_interrupted()
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                progress(f"{self.name} does not answer yet, after {told - began:.0f} s: see {self.log}")
            if is_over(process):
                tail = last_lines(self.log)
                if not any(words in tail for words in self.passing_failures) or time.monotonic() > deadline:
                    raise StackFailed(
                        f"{self.name} ended while it started; its last lines:\n{tail}", advice=self._advice()
                    )
                process = spawn(self.command(), self.log, self.record)
            elif time.monotonic() > deadline:
                stop(process, self.purge_signals)
                raise StackFailed(
                    f"{self.name} did not answer at {self.address} within {START_TIMEOUT_SECONDS:.0f} s; its last "
                    f"lines:\n{last_lines(self.log)}",
                    advice=self._advice(),
                )
            time.sleep(POLL_SECONDS)

    def _advice(self) -> str:
        return f"see {self.log}; `k2 dev up` tries again, `k2 dev down --purge` starts over without the data"
