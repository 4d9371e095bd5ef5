"""One stream: a topic into its table, in the stages of `pipeline.py` (DESIGN D7, D8).

Any error throws the position away; the next call finds it again from the fence.
"""

import itertools
import logging
import threading
import time
from collections.abc import Iterator

from k2_dagster.errors import FenceMoved, NotInitialized
from k2_dagster.ingest.batch import BatchJudge
from k2_dagster.ingest.commit import CommitReport, Committer, Written
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.decode import Decoder
from k2_dagster.ingest.outcome import Outcome
from k2_dagster.ingest.pipeline import OnCommit, Pipeline, reached_ends
from k2_dagster.ingest.resident import allocate_for
from k2_dagster.ingest.resume import Position, resume
from k2_dagster.kafka.batch import RawBatch, Reader
from k2_dagster.kafka.ends import TopicEnd
from k2_dagster.kafka.reader import open_reader
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.topics import topic_name
from k2_dagster.state.breakers import read_breakers

logger = logging.getLogger(__name__)

# Another writer may win this often in a row before we stop competing with it.
MAX_FENCE_MOVES = 5
# A backlog of so many batches begins with smaller ones, of these shares of the others' size, and ends with them: the
# stages behind the reader wait for the first one, and the reader's work is over before theirs. A share of it comes
# sooner. Not for less: small commits make small files.
LONG_BACKLOG_BATCHES = 8
FIRST_SHARES = (4, 2)
LAST_SHARE = 4
# A short backlog is taken in so many batches, unless they would be smaller than this many rows: a process that only has
# to keep up does not need the memory of a full batch (250 MB) for what waited while it started.
SHORT_BACKLOG_BATCHES = 6
LEAST_BATCH_ROWS = 50_000
# How soon an acknowledgement reaches a stream with a halted partition.
ACKNOWLEDGED_SECONDS = 5.0


class StreamDrain:
    """Drains one dataset of one exchange. Keeps reader, tracker and position between calls."""

    def __init__(self, connections: Connections, exchange: str, dataset: str, run_id: str) -> None:
        self.connections = connections
        self.exchange = exchange
        self.dataset = dataset
        self.run_id = run_id
        self.position: Position | None = None
        self._reader: Reader | None = None
        self._sizes: Iterator[int] = iter(())
        self._asked_at = 0.0
        self._judge: BatchJudge | None = None
        self._committer: Committer | None = None

    @property
    def name(self) -> str:
        """`exchange/dataset`."""
        return f"{self.exchange}/{self.dataset}"

    @property
    def topic(self) -> str:
        """The topic's name."""
        return topic_name(self.dataset, self.exchange)

    def drain(self, stop: threading.Event, deadline: float | None, on_commit: OnCommit) -> bool:
        """Drain up to the end offsets seen now. Returns whether they were reached (False: stopped or out of time).

        A stop ends it behind the commit in hand, and throws away what was read or judged beyond. Raises terminal
        errors, and transient ones: SchemaUnknown names the place of the first message that cannot be read.
        """
        for _ in range(MAX_FENCE_MOVES):
            try:
                return not stop.is_set() and self._drain(stop, deadline, on_commit)
            except FenceMoved as error:
                logger.warning("another writer committed first", extra={"stream": self.name, "why": error.message})
                self.close()
            except BaseException:
                self.close()
                raise
        raise FenceMoved(
            f"{self.name}: another writer committed first {MAX_FENCE_MOVES} times", advice="stop one of them"
        )

    def waiting(self, end: TopicEnd) -> int | None:
        """Messages between the position and this end; None when that cannot be told without a look at the fence."""
        position = self.position
        if position is None or not self._same_topic(position, end) or self._acknowledged(position):
            return None
        return sum(max(0, end.ends[partition] - at) for partition, at in position.starts.items())

    def close(self) -> None:
        """Forget the position and give the reader's connections back."""
        if self._reader is not None:
            self._reader.close()
        self._reader = self._judge = self._committer = self.position = None

    def _drain(self, stop: threading.Event, deadline: float | None, on_commit: OnCommit) -> bool:
        position = self._open()
        if _caught_up(position):
            self._refresh(position)
        if _caught_up(position):
            return True
        backlog = sum(end - position.starts[partition] for partition, end in position.ends.items())
        self._sizes = batch_sizes(backlog, self.connections.settings.ingest_batch_rows)
        allocate_for(backlog, self.connections.settings.ingest_batch_rows)
        pipeline = Pipeline(self, position, stop, deadline, on_commit)
        try:
            pipeline.run()
        finally:
            if pipeline.abandoned:
                self._reader = None  # in use by a stage that does not end; the process does
        halted = pipeline.halted.is_set()
        if halted:
            logger.error("a critical gap halts partitions: `k2 breaker list`", extra={"stream": self.name})
        if halted or stop.is_set():
            self.close()
        return not halted and _caught_up(position)

    def _open(self) -> Position:
        found = self.connections
        known = self.position is not None and found.refused_schemas.are(self.position.refused_schemas)
        if self.position is not None and known and not self._acknowledged(self.position):
            return self.position
        # what is refused belongs to the rules that a stream is judged by: others are taken over from the fence
        self.close()
        profile = found.profiles.exchange(self.exchange)
        position = resume(found.settings, found.catalog, found.database, self.exchange, self.dataset, found.profiles)
        decoder = Decoder(WIRE_DATASETS[self.dataset], found.registry.schema, position.refused_schemas)
        rules_version = position.rules.version
        self._judge = BatchJudge(
            *(self.exchange, profile, decoder, position.tracker, position.topic),
            *(rules_version, position.held, position.breakers),
        )
        keep = found.settings.snapshots_kept
        self._committer = Committer(found.catalog, found.database, position, rules_version, self.run_id, keep)
        self._reader = open_reader(found.settings, found.stop)
        self._reader.assign(position.topic.name, position.starts)
        self.position = position
        return position

    def _acknowledged(self, position: Position) -> bool:
        """Whether somebody let a halted partition go on. Asked now and then, and only while one is halted."""
        if not position.breakers.halted or time.monotonic() < self._asked_at + ACKNOWLEDGED_SECONDS:
            return False
        self._asked_at = time.monotonic()
        now = read_breakers(self.connections.database, self.exchange, self.dataset, position.topic.epoch)
        return now != position.breakers

    def _refresh(self, position: Position) -> None:
        """New end offsets, of the same topic: one that is another now is for `resume` to judge."""
        ends = self._end(position).ends
        position.ends = {partition: ends[partition] for partition in position.starts}

    def _end(self, position: Position) -> TopicEnd:
        end = self.connections.ends.read([position.topic.name])[position.topic.name]
        if isinstance(end, TopicEnd) and self._same_topic(position, end):
            return end
        if isinstance(end, TopicEnd | NotInitialized):
            raise FenceMoved(f"{self.name}: the topic is another one now", advice="resume says what that means")
        raise end

    def _same_topic(self, position: Position, end: TopicEnd) -> bool:
        return end.topic_id == position.topic.topic_id and end.ends.keys() == position.partitions

    def read(self) -> RawBatch:
        """Stage 1: the next messages, up to the ends seen."""
        assert self._reader is not None
        assert self.position is not None
        settings = self.connections.settings
        rows = next(self._sizes, settings.ingest_batch_rows)
        return self._reader.read(rows, settings.ingest_commit_interval_seconds, self.position.ends)

    def judge(self, raw: RawBatch, starts: dict[int, int]) -> Outcome:
        """Stage 2. Raises SchemaUnknown or RegistryUnavailable: whoever drives the stream decides how long to wait."""
        assert self._judge is not None
        return self._judge.judge(raw, starts)

    def write(self, outcome: Outcome) -> Written:
        """Stage 3."""
        assert self._committer is not None
        return self._committer.write(outcome)

    def commit(self, written: Written) -> CommitReport:
        """Stage 4. A topic that was made anew meanwhile may have given offsets that are not what they seem."""
        assert self._committer is not None
        assert self.position is not None
        self._end(self.position)
        return self._committer.commit(written)


def batch_sizes(backlog: int, batch_rows: int) -> Iterator[int]:
    """Most rows of each batch of a backlog of so many messages, without end: how many there are is an estimate.

    A long one begins and ends with smaller batches. A short one has smaller ones only: they take less memory.
    """
    if backlog < LONG_BACKLOG_BATCHES * batch_rows:
        yield from itertools.repeat(min(batch_rows, max(LEAST_BATCH_ROWS, backlog // SHORT_BACKLOG_BATCHES)))
    for share in itertools.chain(FIRST_SHARES, itertools.repeat(1)):
        rows = max(1, min(batch_rows // share, max(batch_rows // LAST_SHARE, backlog // 2)))
        yield rows
        backlog -= rows


def _caught_up(position: Position) -> bool:
    return reached_ends(position.starts, position.ends)
