"""The drain loop: a topic into its table, in the three stages of `pipeline.py` (DESIGN D7, D8).

One loop, two drivers: a Dagster run calls `drain_exchange` until caught up, `k2 ingest` calls it for ever. Any error
throws the position away; the next call finds it again from the fence.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from k2_dagster.errors import FenceMoved, NotInitialized, RegistryUnavailable, SchemaUnknown
from k2_dagster.ingest.batch import BatchJudge
from k2_dagster.ingest.commit import CommitReport, Committer
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.decode import Decoder
from k2_dagster.ingest.outcome import Outcome
from k2_dagster.ingest.pipeline import OnCommit, Pipeline, reached_ends
from k2_dagster.ingest.resume import Position, resume
from k2_dagster.kafka.batch import RawBatch, Reader
from k2_dagster.kafka.ends import TopicEnd
from k2_dagster.kafka.reader import open_reader
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.settings import Settings

logger = logging.getLogger(__name__)

# How long an unknown schema id, or a registry that does not answer, is waited for before the run gives up.
SCHEMA_WAIT_SECONDS = 60.0
SCHEMA_RETRY_SECONDS = 1.0
# Another writer may win this often in a row before we stop competing with it.
MAX_FENCE_MOVES = 5


@dataclass
class DrainReport:
    """What a drain did for one exchange."""

    exchange: str
    commits: int = 0
    rows: int = 0
    quarantined: int = 0
    caught_up: bool = False
    seconds: float = 0.0


class StreamDrain:
    """Drains one dataset of one exchange. Keeps reader, tracker and position between calls."""

    def __init__(self, connections: Connections, exchange: str, dataset: str, run_id: str) -> None:
        self.connections = connections
        self.exchange = exchange
        self.dataset = dataset
        self.run_id = run_id
        self.position: Position | None = None
        self._reader: Reader | None = None
        self._judge: BatchJudge | None = None
        self._committer: Committer | None = None

    def drain(self, stop: threading.Event, deadline: float | None, on_commit: OnCommit) -> bool:
        """Drain up to the end offsets seen now. Returns whether they were reached (False: stopped or out of time).

        Raises terminal errors, and transient ones that outlast their bound.
        """
        for _ in range(MAX_FENCE_MOVES):
            try:
                return self._drain(stop, deadline, on_commit)
            except FenceMoved as error:
                logger.warning("another writer committed first", extra={"stream": self.name, "why": error.message})
                self.close()
            except BaseException:
                self.close()
                raise
        raise FenceMoved(
            f"{self.name}: another writer committed first {MAX_FENCE_MOVES} times", advice="stop one of them"
        )

    @property
    def name(self) -> str:
        """`exchange/dataset`."""
        return f"{self.exchange}/{self.dataset}"

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
        Pipeline(self, position, stop, deadline, on_commit).run()
        return _caught_up(position)

    def _open(self) -> Position:
        if self.position is not None:
            return self.position
        found = self.connections
        profile = found.profiles.exchange(self.exchange)
        position = resume(found.settings, found.catalog, found.database, self.exchange, self.dataset, found.profiles)
        decoder = Decoder(WIRE_DATASETS[self.dataset], found.registry.schema, position.refused_schemas)
        rules_version = position.rules.version
        self._judge = BatchJudge(
            self.exchange, profile, decoder, position.tracker, position.topic, rules_version, position.held
        )
        keep = found.settings.snapshots_kept
        self._committer = Committer(found.catalog, found.database, position, rules_version, self.run_id, keep)
        self._reader = open_reader(found.settings)
        self._reader.assign(position.topic.name, position.starts)
        self.position = position
        return position

    def _refresh(self, position: Position) -> None:
        """New end offsets, of the same topic: one that is another now is for `resume` to judge."""
        position.ends = dict(self._end(position).ends)

    def _end(self, position: Position) -> TopicEnd:
        end = self.connections.ends.read([position.topic.name])[position.topic.name]
        same = isinstance(end, TopicEnd) and end.topic_id == position.topic.topic_id
        if isinstance(end, TopicEnd) and same and end.ends.keys() == position.starts.keys():
            return end
        if isinstance(end, TopicEnd | NotInitialized):
            raise FenceMoved(f"{self.name}: the topic is another one now", advice="resume says what that means")
        raise end

    def read(self) -> RawBatch:
        """Stage 1: the next messages, up to the ends seen."""
        assert self._reader is not None
        assert self.position is not None
        settings = self.connections.settings
        seconds, until = settings.ingest_commit_interval_seconds, self.position.ends
        return self._reader.read(settings.ingest_batch_rows, seconds, until)

    def judge(self, raw: RawBatch, starts: dict[int, int], stop: threading.Event) -> Outcome:
        """Stage 2. Waits for a schema that the registry does not give, with a bound and a clear state."""
        assert self._judge is not None
        give_up = time.monotonic() + SCHEMA_WAIT_SECONDS
        while True:
            try:
                return self._judge.judge(raw, starts)
            except (SchemaUnknown, RegistryUnavailable) as error:
                if time.monotonic() > give_up or stop.wait(SCHEMA_RETRY_SECONDS):
                    raise
                logger.warning("waiting for a schema", extra={"stream": self.name, "why": error.message})

    def commit(self, outcome: Outcome) -> CommitReport:
        """Stage 3. A topic that was made anew meanwhile may have given offsets that are not what they seem."""
        assert self._committer is not None
        assert self.position is not None
        self._end(self.position)
        return self._committer.commit(outcome)


def drain_exchange(
    settings: Settings,
    profiles: Profiles,
    exchange: str,
    *,
    datasets: Sequence[str] | None = None,
    cap_seconds: float | None,
    stop: threading.Event,
    run_id: str = "",
    on_commit: OnCommit | None = None,
) -> DrainReport:
    """Drain the datasets of an exchange until all are caught up with the ends seen, or the cap or stop comes.

    A dataset that fails does not keep the others from draining; its error is raised at the end.
    """
    started = time.monotonic()
    deadline = None if cap_seconds is None else started + cap_seconds
    report = DrainReport(exchange)
    counted = _Counting(report, on_commit)
    errors: list[Exception] = []
    with Connections.open(settings, profiles) as connections:
        wanted = datasets if datasets is not None else profiles.exchange(exchange).datasets
        streams = [StreamDrain(connections, exchange, dataset, run_id) for dataset in wanted]
        done = []
        for stream in streams:
            try:
                done.append(stream.drain(stop, deadline, counted))
            except Exception as error:  # noqa: BLE001  (raised below, after the other datasets)
                logger.error("dataset stopped", extra={"stream": stream.name, "why": str(error)})
                errors.append(error)
            finally:
                stream.close()
    report.caught_up = all(done) and not errors
    report.seconds = time.monotonic() - started
    if errors:
        raise errors[0]
    return report


@dataclass
class _Counting:
    report: DrainReport
    on_commit: OnCommit | None = None

    def __call__(self, commit: CommitReport) -> None:
        self.report.commits += 1
        self.report.rows += commit.rows
        self.report.quarantined += commit.quarantined
        if self.on_commit is not None:
            self.on_commit(commit)


def _caught_up(position: Position) -> bool:
    return reached_ends(position.starts, position.ends)
