"""Who dies in the chaos proof: workers of ingest at named points, and one part of the stack at a time."""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from k2_dagster.devstack.stack import Stack
from k2_dagster.devstack.state import load_state
from k2_dagster.errors import K2Error
from k2_dagster.observability.points import POINTS
from proofs.common import Lake, say
from proofs.herd import Herd, Worker

# A worker that did not reach its point by then is killed from outside.
LIFE_SECONDS = 15.0
# Lives of workers that are killed at no point but at a time: from before their first connection to a few commits.
OUTSIDE_SECONDS = (0.05, 2.5)
REACHES = (1, 3)
# How long a killed part of the stack stays away.
OUTAGE_SECONDS = (0.1, 2.0)
# After a transient error: no hot loop while a part is away.
PAUSE_AFTER_ERROR_SECONDS = 0.3


@dataclass
class Tally:
    """What happened on the way."""

    by_point: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    overlaps: int = 0

    @property
    def kills(self) -> int:
        """Workers killed."""
        return self.by_point.total()

    def spared_points(self) -> list[str]:
        """Points at which nobody was killed yet."""
        return [one for one in POINTS if not self.by_point[one]]


class Ring:
    """Ingest of one exchange: one worker after another, sometimes two at once, each meant to die."""

    def __init__(self, workers: Herd, lake: Lake, exchange: str, chance: random.Random, tally: Tally) -> None:
        self.exchange = exchange
        self._workers, self.lake, self._chance, self._tally = workers, lake, chance, tally
        self._points = _shuffled_for_ever(POINTS, chance)
        self._alive: dict[Worker, float] = {}
        self._not_before = 0.0

    def begin(self, *, only_spared: bool) -> None:
        """Start the next round unless one is on. `only_spared`: all that is wanted are the points that had no turn."""
        if self._alive or time.monotonic() < self._not_before:
            return
        both = self._chance.random() < 0.2
        self._tally.overlaps += both
        spared = self._tally.spared_points() if only_spared else []
        for _ in range(1 + both):
            at_point = bool(spared) or self._chance.random() < 0.75
            driver = "process" if self._chance.random() < 0.7 else "run"
            point = self._chance.choice(spared) if spared else next(self._points)
            fields = {"action": "kill", "point": point, "reach": 1 if spared else self._chance.randint(*REACHES)}
            worker = self._workers.start(
                self.exchange, self.lake.environment, driver=driver, **(fields if at_point else {})
            )
            self._alive[worker] = time.monotonic() + (
                LIFE_SECONDS if at_point else self._chance.uniform(*OUTSIDE_SECONDS)
            )
            self._tally.lives += 1

    def look(self, *, last: bool = False) -> list[str]:
        """Kill whose time has come, note who died, return what must not happen."""
        out = []
        for worker, until in list(self._alive.items()):
            if worker.ended.is_set():
                del self._alive[worker]
                out += self._note(worker)
            elif last or time.monotonic() > until:
                worker.send(signal.SIGKILL)
        return out

    @property
    def empty(self) -> bool:
        """Whether nobody lives."""
        return not self._alive

    def _note(self, worker: Worker) -> list[str]:
        if worker.signal == signal.SIGKILL:
            self._tally.by_point["from outside" if worker.killed_from_outside else worker.job.point] += 1
            return []
        report = worker.report
        self._not_before = time.monotonic() + PAUSE_AFTER_ERROR_SECONDS
        if report is None:
            return [f"a worker of {self.exchange} died of signal {worker.signal}, status {worker.status}"]
        self._tally.errors[report.error or "none"] += 1
        if report.transient:
            return []
        return [f"a worker of {self.exchange} ended with {report.error or 'no error'}: {report.text}"]


class Outages:
    """Kills one part of the stack at a time and brings it back."""

    def __init__(self, stack: Stack, chance: random.Random, tally: Tally) -> None:
        self._stack, self._chance, self._tally = stack, chance, tally
        state = load_state(stack.home)
        forgetful = state is not None and state.s3_program == "moto"
        parts = [one for one in stack.part_names() if not (one == "s3" and forgetful)]
        self.parts = tuple(parts)
        self._order = _shuffled_for_ever(self.parts, chance)
        self._thread: threading.Thread | None = None
        self.errors: list[str] = []

    def begin(self) -> None:
        """Kill the next part, unless one is away."""
        if self._thread is None or not self._thread.is_alive():
            part, seconds = next(self._order), self._chance.uniform(*OUTAGE_SECONDS)
            say(f"kill -9 {part}, back after {seconds:.1f} s")
            self._thread = threading.Thread(target=self._run, args=(part, seconds))
            self._thread.start()

    def end(self) -> None:
        """Wait until the part is back."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, part: str, seconds: float) -> None:
        try:
            self._stack.kill(part)
            self._tally.parts[part] += 1
            time.sleep(seconds)
            self._stack.start(part)
        except K2Error as error:
            self.errors.append(f"{part} did not come back: {error}")


def _shuffled_for_ever(values: tuple[str, ...], chance: random.Random) -> Iterator[str]:
    """Every value once, in any order, again and again."""
    while True:
        yield from chance.sample(values, len(values))
