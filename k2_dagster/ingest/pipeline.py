"""The overlapping stages of one drain call, with bounded queues between them (DESIGN D8).

read      exact offsets from Kafka, up to `ingest_batch_rows` or `ingest_commit_interval_seconds`
judge     decode, validate, sequence, deduplicate: columns in, columns out
write     Parquet files, which nothing refers to yet
commit    quarantine, attempt, fenced append, settle: mostly waiting for the database and the warehouse
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from k2_dagster.ingest.commit import CommitReport, Written
from k2_dagster.ingest.memory import COLLECTOR, collections_between_commits, switching_often
from k2_dagster.ingest.outcome import Outcome
from k2_dagster.ingest.resident import give_back_code
from k2_dagster.ingest.resume import Position
from k2_dagster.kafka.batch import RawBatch
from k2_dagster.observability.points import reached

# Outcomes ahead of the writer, and what is written ahead of the commit: one each keeps all stages busy.
QUEUED_BATCHES = 1
# Raw batches ahead of the judge, the one that is being read among them: it is there when the judge has done the one in
# hand, and a second would only take memory.
BATCHES_AHEAD = 1
# A stage looks this often whether another one has ended.
STAGE_POLL_SECONDS = 0.1
# A stage that is still at work so long after a stop (a registry that does not answer, a batch of damaged messages) is
# left to itself: nothing that it makes is used any more.
ABANDON_SECONDS = 1.0

Item = TypeVar("Item")
OnCommit = Callable[[CommitReport], None]


class Stages(Protocol):
    """What the pipeline runs, each method in a thread of its own."""

    def read(self) -> RawBatch:
        """The next messages, up to the ends of the position."""

    def judge(self, raw: RawBatch, starts: dict[int, int]) -> Outcome:
        """What becomes of them; `starts` are the positions before the batch."""

    def write(self, outcome: Outcome) -> Written:
        """Its rows into files."""

    def commit(self, written: Written) -> CommitReport:
        """Land it."""


class Pipeline:
    """The stages of one drain call; the commit stage runs in the caller's thread.

    The reader decides when to end (caught up, deadline). What it has read by then still goes through the other stages,
    so that reader, tracker and fence agree when the call returns. A stop ends all stages where they are, but for the
    commit in hand: then they do not agree, and the caller has to resume from the fence. So it is when a
    partition halts: that outcome is the last one to be committed.
    """

    def __init__(
        self,
        stages: Stages,
        position: Position,
        stop: threading.Event,
        deadline: float | None,
        on_commit: OnCommit,
    ) -> None:
        self.stages = stages
        self.position = position
        self.stop = stop
        self.deadline = deadline
        self.on_commit = on_commit
        self.failed = threading.Event()
        self.raw: queue.Queue[RawBatch | None] = queue.Queue()
        self.ahead = threading.Semaphore(BATCHES_AHEAD)
        self.outcomes: queue.Queue[Outcome | None] = queue.Queue(QUEUED_BATCHES)
        self.written: queue.Queue[Written | None] = queue.Queue(QUEUED_BATCHES)
        self.errors: list[BaseException] = []
        self.abandoned = False
        self.halted = threading.Event()

    def run(self) -> None:
        """Raises the first error of any stage. After a stop, `abandoned` says that one did not end: it may still use
        the reader. When a partition halted, `halted` is set and what was read behind that is thrown away."""
        with collections_between_commits(), switching_often():
            self._run()

    def _run(self) -> None:
        bodies = (self._read, self._judge, self._write)
        threads = [threading.Thread(target=self._guarded, args=(body,), daemon=True) for body in bodies]
        for thread in threads:
            thread.start()
        try:
            self._commit()
        except BaseException:
            self.failed.set()
            raise
        finally:
            self._join(threads)
        if self.errors:
            raise self.errors[0]

    def _join(self, threads: Sequence[threading.Thread]) -> None:
        since: float | None = None
        for thread in threads:
            while thread.is_alive() and not self.abandoned:
                thread.join(STAGE_POLL_SECONDS)
                if self.stop.is_set():
                    since = since or time.monotonic()
                    self.abandoned = thread.is_alive() and time.monotonic() - since > ABANDON_SECONDS

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:  # noqa: BLE001  (handed to the caller's thread, which raises it)
            self.errors.append(error)
            self.failed.set()

    def _read(self) -> None:
        positions = dict(self.position.starts)
        while not self._asked_to_end() and not reached_ends(positions, self.position.ends):
            if not self.ahead.acquire(timeout=STAGE_POLL_SECONDS):
                continue
            batch = self.stages.read()
            if not len(batch) and all(positions[key] == at for key, at in batch.positions.items()):
                self.ahead.release()
                continue
            positions.update(batch.positions)
            reached("batch.consumed")
            self._put(self.raw, batch)
            del batch  # what a stage is done with is the next one's: two batches more would be kept otherwise
        self._put(self.raw, None)

    def _judge(self) -> None:
        starts = dict(self.position.starts)
        while (batch := self._take(self.raw)) is not None:
            self.ahead.release()
            outcome = self.stages.judge(batch, starts)
            starts.update(batch.positions)
            del batch
            give_back_code()
            halted = bool(outcome.halted)
            self._put(self.outcomes, outcome)
            del outcome
            if halted:
                self.halted.set()
                break
        self._put(self.outcomes, None)

    def _write(self) -> None:
        while (outcome := self._take(self.outcomes)) is not None:
            written = self.stages.write(outcome)
            give_back_code()
            del outcome  # its rows, while the queue is full
            self._put(self.written, written)
        self._put(self.written, None)

    def _commit(self) -> None:
        while (written := self._take(self.written)) is not None:
            self.on_commit(self.stages.commit(written))
            COLLECTOR.collect()

    def _asked_to_end(self) -> bool:
        late = self.deadline is not None and time.monotonic() > self.deadline
        return late or self._over() or self.halted.is_set()

    def _over(self) -> bool:
        return self.failed.is_set() or self.stop.is_set()

    def _put(self, target: "queue.Queue[Item | None]", item: Item | None) -> None:
        while not self._over() and not (target is self.raw and self.halted.is_set()):
            try:
                target.put(item, timeout=STAGE_POLL_SECONDS)
            except queue.Full:
                continue
            return

    def _take(self, source: "queue.Queue[Item | None]") -> Item | None:
        while not self._over():
            try:
                return source.get(timeout=STAGE_POLL_SECONDS)
            except queue.Empty:
                continue
        return None


def reached_ends(positions: Mapping[int, int], ends: Mapping[int, int]) -> bool:
    """Whether every partition is read up to its end."""
    return all(positions[partition] >= end for partition, end in ends.items())
