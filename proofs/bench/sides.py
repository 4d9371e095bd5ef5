"""What is compared, each run in a process of its own: `python -m proofs.bench.sides JOB` prints Figures, both JSON.

    bare    consume -> pyruhvro -> PyIceberg append, with a writer thread; checks nothing, stores what was decoded
    full    the drain loop with everything on

Both read the same topic with the same consumer settings into batches of the same size, after a warm-up on a small
topic: imports and compilation are not in the time, and neither side is collected for cycles.
"""

import gc
import json
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil
import pyarrow as pa
import pyruhvro
from confluent_kafka import Consumer, Message, TopicPartition
from pyiceberg.table import Table

from k2_dagster.ingest.commit import CommitReport
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.stream import StreamDrain
from k2_dagster.kafka.clients import consumer_config
from k2_dagster.kafka.plain import CHUNK_MESSAGES
from k2_dagster.kafka.registry import Registry
from k2_dagster.kafka.topics import describe, watermarks
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.schemas.ticks import TICKS
from k2_dagster.schemas.topics import subject_name, topic_name
from k2_dagster.settings import Settings, as_environment, load_settings

Side = Literal["bare", "full"]

POLL_SECONDS = 1.0
FRAME_BYTES = 5
BARE_NAMESPACE = "bare"
# A side that takes longer than this per million messages is stuck, not slow.
LIMIT_SECONDS_PER_MILLION = 120.0
LIMIT_SECONDS = 120.0


@dataclass(frozen=True)
class Job:
    """One run of one side."""

    side: Side
    exchange: str
    warm_up: str


@dataclass(frozen=True)
class Figures:
    """What a run took, from before the first request to the last commit. `cpu_seconds` is of the whole process,
    librdkafka's and Arrow's threads with it; `peak_rss_megabytes` includes the warm-up."""

    side: Side
    messages: int
    rows: int
    quarantined: int
    commits: int
    seconds: float
    cpu_seconds: float
    peak_rss_megabytes: float
    warm_up_seconds: float
    file_bytes: int

    @property
    def rows_per_second(self) -> float:
        """Messages through the whole path, per second of wall time."""
        return self.messages / self.seconds

    @property
    def rows_per_cpu_second(self) -> float:
        """Messages per second of processor time of the whole process."""
        return self.messages / self.cpu_seconds


def run_side(settings: Settings, job: Job, messages: int) -> Figures:
    """Run a side in a new process and take its figures. Raises RuntimeError with what it wrote when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "proofs.bench.sides", json.dumps(asdict(job))],
        env=environment_of(settings),
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS + LIMIT_SECONDS_PER_MILLION * messages / 1_000_000,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{job.side} failed:\n{done.stderr[-4000:]}")
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


def environment_of(settings: Settings) -> dict[str, str]:
    """For a process that is measured: ours, with these settings and no others."""
    return {key: value for key, value in os.environ.items() if not key.startswith("K2_")} | as_environment(settings)


def peak_rss_megabytes(pid: int | None = None) -> float:
    """The most memory that this process or another has had (not its parent, whose peak `getrusage` would inherit)."""
    status = Path(f"/proc/{pid or os.getpid()}/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return float(psutil.Process(pid).memory_info().rss) / 2**20


class _Clock:
    """Wall and processor time since it was made, up to the last `lap`."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self.seconds = self.cpu_seconds = 0.0

    def lap(self) -> None:
        self.seconds, self.cpu_seconds = time.perf_counter() - self._wall, time.process_time() - self._cpu


@dataclass
class _Drained:
    commits: int = 0
    rows: int = 0
    quarantined: int = 0
    file_bytes: int = 0

    @property
    def messages(self) -> int:
        return self.rows + self.quarantined

    def add(self, commit: CommitReport) -> None:
        self.commits += 1
        self.rows += commit.rows
        self.quarantined += commit.quarantined
        self.file_bytes += int(commit.counts["bytes"])


def full(settings: Settings, job: Job) -> Figures:
    """The drain loop of one stream, as `k2 ingest` and Dagster's runs call it."""
    began = time.perf_counter()
    drain(settings, job.warm_up, _Drained(), _Clock())
    warm_up_seconds = time.perf_counter() - began
    drained, clock = _Drained(), _Clock()
    drain(settings, job.exchange, drained, clock)
    return Figures(
        job.side,
        drained.messages,
        drained.rows,
        drained.quarantined,
        drained.commits,
        clock.seconds,
        clock.cpu_seconds,
        peak_rss_megabytes(),
        warm_up_seconds,
        drained.file_bytes,
    )


def drain(settings: Settings, exchange: str, drained: _Drained, clock: _Clock) -> None:
    """Drain the exchange's ticks up to the end seen at the start."""

    def note(commit: CommitReport) -> None:
        clock.lap()
        drained.add(commit)

    with Connections.open(settings, load_profiles(settings.profiles)) as connections:
        stream = StreamDrain(connections, exchange, TICKS.name, "")
        try:
            if not stream.drain(threading.Event(), None, note):
                raise RuntimeError("the drain did not reach the end of the topic")
        finally:
            stream.close()


def bare(settings: Settings, job: Job) -> Figures:
    """The loop that everybody writes first, tuned: nothing is checked and no position is kept."""
    gc.disable()
    began = time.perf_counter()
    _BareLoop(settings, job.warm_up).run()
    warm_up_seconds = time.perf_counter() - began
    clock = _Clock()
    loop = _BareLoop(settings, job.exchange)
    loop.run()
    clock.lap()
    return Figures(
        job.side,
        loop.messages,
        loop.messages,
        0,
        loop.commits,
        clock.seconds,
        clock.cpu_seconds,
        peak_rss_megabytes(),
        warm_up_seconds,
        loop.file_bytes(),
    )


class _BareLoop:
    def __init__(self, settings: Settings, exchange: str) -> None:
        self.settings = settings
        self.topic = topic_name(TICKS.name, exchange)
        self.name = f"{BARE_NAMESPACE}.{exchange}"
        self.messages = 0
        self.commits = 0
        self._batches: queue.Queue[pa.Table | None] = queue.Queue(1)
        self._errors: list[Exception] = []

    def run(self) -> None:
        """Consume and decode in this thread, append in another."""
        registry = Registry(self.settings)
        latest = registry.latest(subject_name(self.topic))
        registry.close()
        assert latest is not None
        writer = threading.Thread(target=self._write)
        writer.start()
        try:
            self._read(latest.text)
        finally:
            self._batches.put(None)
            writer.join()
        if self._errors:
            raise self._errors[0]

    def _read(self, schema_text: str) -> None:
        partitions = describe(self.settings, [self.topic])[self.topic].partitions
        marks = watermarks(self.settings, self.topic, partitions)
        total = sum(end - earliest for earliest, end in marks.values())
        consumer = Consumer(consumer_config(self.settings))
        consumer.assign([TopicPartition(self.topic, number, earliest) for number, (earliest, _) in marks.items()])
        while self.messages < total and not self._errors:
            values: list[bytes] = []
            wanted = min(self.settings.ingest_batch_rows, total - self.messages)
            while len(values) < wanted:
                messages = consumer.consume(min(CHUNK_MESSAGES, wanted - len(values)), POLL_SECONDS)
                if any(map(Message.error, messages)):
                    messages = [message for message in messages if not message.error()]
                values += [value[FRAME_BYTES:] for value in map(Message.value, messages) if value is not None]
            batch = pyruhvro.deserialize_array(values, schema_text)
            self.messages += len(values)
            self._batches.put(pa.Table.from_batches([batch]))
        consumer.close()

    def _write(self) -> None:
        catalog = open_catalog(self.settings)
        table: Table | None = None
        try:
            catalog.create_namespace_if_not_exists(BARE_NAMESPACE)
            while (batch := self._batches.get()) is not None:
                if self._errors:
                    continue
                try:
                    if table is None:
                        table = catalog.create_table(self.name, schema=batch.schema)
                    table.append(batch)
                    self.commits += 1
                except Exception as error:  # noqa: BLE001  (raised by `run`, in the caller's thread)
                    self._errors.append(error)
        finally:
            close_catalog(catalog)

    def file_bytes(self) -> int:
        """Size of the table's data files."""
        catalog = open_catalog(self.settings)
        try:
            files = catalog.load_table(self.name).inspect.files()
            return int(sum(files["file_size_in_bytes"].to_pylist()))
        finally:
            close_catalog(catalog)


def main() -> None:
    """Run the job of the command line and print its figures."""
    job = Job(**json.loads(sys.argv[1]))
    settings = load_settings()
    figures = (bare if job.side == "bare" else full)(settings, job)
    sys.stdout.write(json.dumps(asdict(figures)) + "\n")


if __name__ == "__main__":
    main()
