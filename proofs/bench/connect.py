"""Measure `connect`: Kafka Connect with the Apache Iceberg sink on the same topic, broker and Java runtime.

It decodes and appends; it validates, sequences and deduplicates nothing. Tuned: two task counts, fetch sizes and poll
records raised, offsets flushed every second so that a commit is not held back, schemas looked up once.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from sqlalchemy.exc import OperationalError

from k2_dagster.devstack.downloads import java
from k2_dagster.devstack.process import Progress
from k2_dagster.kafka.clients import REQUEST_TIMEOUT_SECONDS, client_config
from k2_dagster.schemas.ticks import TICKS
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from proofs.bench.connect_jars import CONVERTER, SINK, WORKER, jars
from proofs.bench.ingest import NATIVE, PLAIN, run_once
from proofs.bench.results import Measure, conditions
from proofs.bench.setting import Bench, Topics
from proofs.bench.sides import Figures

CONNECT = "Kafka Connect"
TASK_COUNTS = (1, 2)
GOALS = {PLAIN: 2.0, NATIVE: 3.5}
GOAL_PER_CPU_SECOND = 3.0
COMMIT_INTERVAL_MS = 10_000
LOOK_SECONDS = 0.1
# The slowest rate seen in tests was a third of this; below it the run is taken for stuck.
SLOWEST_MESSAGES_PER_SECOND = 20_000
START_SECONDS = 180.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Moment:
    """The table at a commit, and the processor time of the JVM by then."""

    rows: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Drained:
    """Between the first commit and the last but one: the last waits for its interval with nothing to do. Where there
    are too few commits for that, from the first message on."""

    tasks: int
    rows_per_second: float
    rows_per_cpu_second: float
    peak_rss_megabytes: float
    commits: int


def measure_connect(bench: Bench, messages: int, progress: Progress) -> list[Measure]:
    """Rows per second, per CPU-second and memory of Connect at its best task count, and of the full path."""
    found = jars(progress)
    topics = bench.topics(messages, seed=6)
    runs = [run_connect(bench, topics, tasks, found, progress) for tasks in TASK_COUNTS]
    best = max(runs, key=lambda one: one.rows_per_second)
    progress(f"best with {best.tasks} task(s): {best.rows_per_second / 1e3:,.0f} k rows/s")
    ours = {name: run_once(bench, topics, name) for name in (PLAIN, NATIVE)}
    facts = conditions(
        messages=messages, bytes_per_message=topics.planted.value_bytes / messages, tasks=best.tasks,
        commits=best.commits, other_task_counts={one.tasks: one.rows_per_second for one in runs},
        connect_time="between its commits, JVM start and last commit left out; ours with start and last commit",
    )  # fmt: skip
    return _compare(best, ours, facts)


def _compare(best: Drained, ours: Mapping[str, Figures], facts: Mapping[str, object]) -> list[Measure]:
    out = [
        Measure(f"connect: rows per second, {CONNECT}", best.rows_per_second, "rows/s", conditions=facts),
        Measure(f"connect: rows per CPU-second, {CONNECT}", best.rows_per_cpu_second, "rows/CPU-s", conditions=facts),
        Measure(f"connect: peak RSS, {CONNECT}", best.peak_rss_megabytes, "MB", conditions=facts),
    ]
    for name, one in ours.items():
        ratio = one.rows_per_second / best.rows_per_second
        per_cpu = one.rows_per_cpu_second / best.rows_per_cpu_second
        memory = one.peak_rss_megabytes / best.peak_rss_megabytes
        goal = GOALS[name]
        out += [
            Measure(f"connect: rows per second, {name}", one.rows_per_second, "rows/s", CONNECT, ratio,
                    f">= {goal}", ratio >= goal, facts),
            Measure(f"connect: rows per CPU-second, {name}", one.rows_per_cpu_second, "rows/CPU-s", CONNECT, per_cpu,
                    f">= {GOAL_PER_CPU_SECOND}", per_cpu >= GOAL_PER_CPU_SECOND, facts),
            Measure(f"connect: peak RSS, {name}", one.peak_rss_megabytes, "MB", CONNECT, memory,
                    "< 1", memory < 1, facts),
        ]  # fmt: skip
    return out


def run_connect(
    bench: Bench, topics: Topics, tasks: int, found: Mapping[str, list[Path]], progress: Progress
) -> Drained:
    """Drain the topic with a Connect worker of its own. Raises RuntimeError when it does not get to the end."""
    folder = bench.folder / f"connect-{topics.exchange}-{tasks}"
    folder.mkdir()
    try:
        command = _prepare(bench.settings(), topics, tasks, folder, found)
        with (folder / "log").open("wb") as log:
            process = psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            return _watch(process, folder, tasks, topics.planted.messages, progress)
        finally:
            _end(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(
    settings: Settings, topics: Topics, tasks: int, folder: Path, found: Mapping[str, list[Path]]
) -> list[str]:
    """The worker's command, with its files and topics made."""
    for name in (SINK, CONVERTER):
        (folder / "plugins" / name).mkdir(parents=True)
        for jar in found[name]:
            (folder / "plugins" / name / jar.name).symlink_to(jar)
    control = f"{topics.exchange}-control-{tasks}"
    admin = AdminClient(client_config(settings))
    for future in admin.create_topics([NewTopic(control, 1, 1)]).values():
        future.result(REQUEST_TIMEOUT_SECONDS)
    _write(folder / "worker.properties", _worker(settings, folder))
    _write(folder / "sink.properties", _sink(settings, topics.exchange, control, tasks, folder))
    classes = ":".join(str(jar) for jar in found[WORKER])
    options = ["-Xms1g", "-Xmx2g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    main = "org.apache.kafka.connect.cli.ConnectStandalone"
    return [str(java()), *options, "-cp", classes, main, "worker.properties", "sink.properties"]


def _worker(settings: Settings, folder: Path) -> dict[str, str]:
    registry = settings.schema_registry_url.split("/apis/")[0]
    return {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "io.apicurio.registry.utils.converter.AvroConverter",
        "value.converter.apicurio.registry.url": f"{registry}/apis/registry/v2",
        "value.converter.apicurio.registry.as-confluent": "true",
        "value.converter.apicurio.registry.use-id": "contentId",
        "value.converter.apicurio.registry.check-period-ms": "3600000",
        "offset.storage.file.filename": str(folder / "offsets"),
        "offset.flush.interval.ms": "1000",
        "plugin.path": str(folder / "plugins"),
        "plugin.discovery": "hybrid_warn",
        "listeners": "http://127.0.0.1:0",
        "connector.client.config.override.policy": "All",
    }


def _sink(settings: Settings, exchange: str, control: str, tasks: int, folder: Path) -> dict[str, str]:
    return {
        "name": f"{exchange}-{tasks}",
        "connector.class": "org.apache.iceberg.connect.IcebergSinkConnector",
        "tasks.max": str(tasks),
        "topics": topic_name(TICKS.name, exchange),
        "iceberg.tables": "bench.ticks",
        "iceberg.tables.auto-create-enabled": "true",
        "iceberg.catalog": "lake",
        "iceberg.catalog.catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
        "iceberg.catalog.uri": f"jdbc:sqlite:{folder}/catalog.db",
        "iceberg.catalog.warehouse": f"file://{folder}/warehouse",
        "iceberg.catalog.jdbc.schema-version": "V1",
        "iceberg.control.topic": control,
        "iceberg.control.commit.interval-ms": str(COMMIT_INTERVAL_MS),
        "iceberg.kafka.bootstrap.servers": settings.kafka_bootstrap_servers,
        "consumer.override.auto.offset.reset": "earliest",
        "consumer.override.max.poll.records": "5000",
        "consumer.override.fetch.max.bytes": "52428800",
        "consumer.override.max.partition.fetch.bytes": "10485760",
    }


def _write(path: Path, properties: Mapping[str, str]) -> None:
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))


def _watch(process: psutil.Popen, folder: Path, tasks: int, messages: int, progress: Progress) -> Drained:
    began, peak_bytes = time.monotonic(), 0
    moments: list[Moment] = []
    rows_now = _row_counter(folder)
    limit = START_SECONDS + messages / SLOWEST_MESSAGES_PER_SECOND
    while not moments or moments[-1].rows < messages:
        if process.poll() is not None or time.monotonic() - began > limit:
            lines = (folder / "log").read_text(errors="replace")[-3000:]
            raise RuntimeError(
                f"Kafka Connect landed {moments[-1].rows if moments else 0} of {messages} rows:\n{lines}"
            )
        time.sleep(LOOK_SECONDS)  # it is another program's table: there is nothing to wait on
        peak_bytes = max(peak_bytes, process.memory_info().rss)
        rows = rows_now()
        if rows > (moments[-1].rows if moments else 0):
            times = process.cpu_times()
            moments.append(Moment(rows, time.monotonic(), times.user + times.system))
            progress(f"{CONNECT}, {tasks} task(s): {rows:,} rows")
    return _between_commits(tasks, moments, began, peak_bytes / 2**20)


def _between_commits(tasks: int, moments: list[Moment], began: float, peak_megabytes: float) -> Drained:
    first, last = (moments[0], moments[-2]) if len(moments) > 2 else (Moment(0, began, 0.0), moments[-1])
    rows = last.rows - first.rows
    return Drained(
        tasks,
        rows / (last.seconds - first.seconds),
        rows / (last.cpu_seconds - first.cpu_seconds),
        peak_megabytes,
        len(moments),
    )


def _row_counter(folder: Path) -> Callable[[], int]:
    """Rows of the table now; none before it is made."""
    catalog: list[SqlCatalog] = []

    def count() -> int:
        if not (folder / "catalog.db").exists():
            return 0
        if not catalog:
            catalog.append(SqlCatalog("lake", uri=f"sqlite:///{folder}/catalog.db", init_catalog_tables="false"))
        try:
            snapshot = catalog[0].load_table("bench.ticks").current_snapshot()
        except (NoSuchTableError, OperationalError, OSError):
            return 0  # not made yet, or being written
        if snapshot is None or snapshot.summary is None:
            return 0
        return int(snapshot.summary["total-records"] or 0)

    return count


def _end(process: psutil.Popen) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)
