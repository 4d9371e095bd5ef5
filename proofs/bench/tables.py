"""Measures `layout` and `commits`: bytes per row of K2's files, and whether a commit's time grows with the history."""

import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog

from k2_dagster.devstack.process import Progress
from k2_dagster.ingest.commit import CommitReport
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.memory import COLLECTOR, collections_between_commits
from k2_dagster.ingest.stream import StreamDrain
from k2_dagster.lake.append import Append, fenced_append
from k2_dagster.lake.catalog import close_catalog, load_table, open_catalog
from k2_dagster.lake.expiry import expire_snapshots
from k2_dagster.lake.fence import Rules, position_key
from k2_dagster.lake.parquet import DataFiles, data_path
from k2_dagster.schemas.datasets import table_name
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.schemas.ticks import TICKS
from k2_dagster.settings import Settings
from k2_dagster.state.attempts import Attempt, LandedCommit, Range, insert_attempt, settle
from k2_dagster.state.database import Database
from proofs.bench.results import Measure, conditions
from proofs.bench.setting import Bench

LAYOUT_GOAL = 0.5
FLATNESS_GOAL = 1.5
# Commits at each end of the series that are compared.
END_COMMITS = 100
END_EXPIRIES = 10
ROWS_PER_COMMIT = 100
RULES = Rules(1, "", "")
DEFAULT_TABLE = "bare.ticks"


def measure_layout(bench: Bench, messages: int, progress: Progress) -> list[Measure]:
    """Drain a topic, then give PyIceberg's default writer the same rows and schema, and compare the data files."""
    topics = bench.topics(messages, seed=4)
    with bench.lake(topics.profiles) as settings:
        ours = drain(settings, topics.exchange)
        catalog = open_catalog(settings)
        try:
            rows, theirs = _write_by_default(catalog)
        finally:
            close_catalog(catalog)
    progress(f"{ours / rows:.1f} bytes per row, by default {theirs / rows:.1f}")
    ratio = ours / theirs
    facts = conditions(
        rows=rows, commits="of ingest_batch_rows each", bytes_per_message=topics.planted.value_bytes / messages
    )
    return [
        Measure("layout: bytes per row, K2", ours / rows, "B", "PyIceberg's default writer", ratio,
                f"<= {LAYOUT_GOAL}", ratio <= LAYOUT_GOAL, facts),
        Measure("layout: bytes per row, PyIceberg's default writer", theirs / rows, "B", conditions=facts),
    ]  # fmt: skip


def drain(settings: Settings, exchange: str) -> int:
    """Bytes of the data files that ingest wrote."""
    reports: list[CommitReport] = []
    with Connections.open(settings, load_profiles(settings.profiles)) as connections:
        stream = StreamDrain(connections, exchange, TICKS.name, "")
        try:
            stream.drain(threading.Event(), None, reports.append)
        finally:
            stream.close()
    return sum(int(one.counts["bytes"]) for one in reports)


def _write_by_default(catalog: Catalog) -> tuple[int, int]:
    """Rows, and the bytes of files that PyIceberg makes of them: the same rows per commit, in offset order."""
    source = load_table(catalog, table_name(TICKS.name))
    catalog.create_namespace_if_not_exists("bare")
    table = catalog.create_table(DEFAULT_TABLE, schema=source.schema())
    rows = 0
    for commit in _by_commit(source.scan().plan_files()):
        batch = pa.concat_tables([_read(path, source.schema().as_arrow()) for path in commit])
        table.append(batch.sort_by([("kafka_partition", "ascending"), ("kafka_offset", "ascending")]))
        rows += batch.num_rows
    return rows, int(sum(table.inspect.files()["file_size_in_bytes"].to_pylist()))


def _by_commit(tasks: object) -> list[list[str]]:
    """Paths of the files, grouped by the commit that their names carry."""
    commits: dict[str, list[str]] = {}
    for task in tasks:  # type: ignore[attr-defined]
        path = task.file.file_path
        commits.setdefault(path.rsplit("/", 1)[1], []).append(path.removeprefix("file://"))
    return list(commits.values())


def _read(path: str, schema: pa.Schema) -> pa.Table:
    """The file's rows in the table's types, without field ids: the other table has its own."""
    found = pq.ParquetFile(path).read()
    fields = [field.remove_metadata() for field in schema]
    columns = [found[field.name].cast(_without_ids(field.type)) for field in fields]
    plain = [field.with_type(column.type) for field, column in zip(fields, columns, strict=True)]
    return pa.Table.from_arrays(columns, schema=pa.schema(plain))


def _without_ids(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return pa.list_(type_.value_field.remove_metadata())
    return pa.string() if pa.types.is_large_string(type_) else type_


def measure_commits(bench: Bench, commits: int, progress: Progress) -> list[Measure]:
    """Time of each of many commits (attempt, fenced append, settle), first hundred against last hundred; and of the
    expiry of snapshots that follows one in some fifty, first ones against last ones."""
    topics = bench.topics(0, seed=5)
    with bench.lake(topics.profiles) as settings:
        seconds, expiries = _commit_often(settings, commits, progress)
    ends = min(END_COMMITS, len(seconds) // 2)
    first, last = seconds[:ends], seconds[-ends:]
    out = []
    for name, quantile in (("p50", 0.50), ("p99", 0.99)):
        before, after = _milliseconds(first, quantile), _milliseconds(last, quantile)
        facts = conditions(commits=commits, rows_per_commit=ROWS_PER_COMMIT, compared=ends, first=before, last=after)
        all_of_them = _milliseconds(seconds, quantile)
        ratio = after / before
        out.append(
            Measure(f"commits: {name}", all_of_them, "ms", f"last {ends} against first {ends}", ratio,
                    f"<= {FLATNESS_GOAL}", ratio <= FLATNESS_GOAL, facts)
        )  # fmt: skip
    return [*out, *_of_expiries(expiries)]


def _of_expiries(seconds: Sequence[float]) -> list[Measure]:
    ends = min(END_EXPIRIES, len(seconds) // 2)
    if not ends:
        return []
    before, after = _milliseconds(seconds[:ends], 0.5), _milliseconds(seconds[-ends:], 0.5)
    facts = conditions(expiries=len(seconds), compared=ends, first=before, last=after)
    ratio = after / before
    return [
        Measure("commits: expiry, p50", _milliseconds(seconds, 0.5), "ms", f"last {ends} against first {ends}", ratio,
                f"<= {FLATNESS_GOAL}", ratio <= FLATNESS_GOAL, facts)
    ]  # fmt: skip


def _milliseconds(seconds: Sequence[float], quantile: float) -> float:
    return 1000 * float(np.quantile(seconds, quantile))


def _commit_often(settings: Settings, commits: int, progress: Progress) -> tuple[list[float], list[float]]:
    """What the drain loop does with an outcome, without reading and judging before it: the seconds of each commit, and
    of each expiry."""
    catalog = open_catalog(settings)
    with closing(Database(settings)) as database, collections_between_commits():
        try:
            table = load_table(catalog, table_name(TICKS.name))
            rows = _rows(table.schema().as_arrow())
            seconds, expiries = [], []
            previous: str | None = None
            for number in range(commits):
                began = time.perf_counter()
                previous = _commit(catalog, database, rows, number, previous)
                COLLECTOR.collect()
                seconds.append(time.perf_counter() - began)
                began = time.perf_counter()
                expired = expire_snapshots(catalog, database, table_name(TICKS.name), settings.snapshots_kept)
                if expired:
                    progress(f"{number + 1} commits, {expired} snapshots expired")
                    expiries.append(time.perf_counter() - began)
            return seconds, expiries
        finally:
            close_catalog(catalog)


def _commit(catalog: Catalog, database: Database, rows: pa.Table, number: int, previous: str | None) -> str:
    name, commit_id, topic_id = table_name(TICKS.name), str(uuid.uuid4()), "bench"
    start, end = number * ROWS_PER_COMMIT, (number + 1) * ROWS_PER_COMMIT
    table = load_table(catalog, name)
    file = DataFiles(table, TICKS).write(rows, data_path(table, "bench", "2026-01-01", commit_id))
    covered = Range("bench", topic_id, 1, 0, start, end, ROWS_PER_COMMIT, ROWS_PER_COMMIT, 0, "0" * 16, "0" * 16)
    attempt = Attempt(
        id=commit_id, table_name=name, exchange="bench", dataset=TICKS.name, previous_id=previous, ranges=[covered],
        counts={"consumed": ROWS_PER_COMMIT, "rows": ROWS_PER_COMMIT, "quarantined": 0},
        days={"2026-01-01": ROWS_PER_COMMIT},
        schema_ids=[1], rules_version=1, run_id="", code_version="bench", ledger=[], state=b"",
    )  # fmt: skip
    insert_attempt(database, attempt)
    key = position_key(topic_id, 0)
    starts = {key: start if number else None}
    landed = fenced_append(
        catalog, database, Append(name, commit_id, "bench/ticks", starts, {key: end}, [file], previous, RULES)
    )
    settle(database, name, [LandedCommit(commit_id, landed.snapshot_id, landed.stamp, landed.seconds)])
    return commit_id


def _rows(schema: pa.Schema) -> pa.Table:
    moment = 1_767_225_600_000_000
    values = {"exchange": "bench", "stream": "trade", "kind": "trade", "symbol": "A", "side": "buy", "origin": "live"}
    columns = []
    for field in schema:
        if pa.types.is_timestamp(field.type):
            columns.append(pa.array([moment] * ROWS_PER_COMMIT, pa.int64()).view(field.type))
        elif field.name in values:
            columns.append(pa.array([values[field.name]] * ROWS_PER_COMMIT, field.type))
        elif field.nullable:
            columns.append(pa.nulls(ROWS_PER_COMMIT, field.type))
        else:
            columns.append(pa.array([1] * ROWS_PER_COMMIT, field.type))
    return pa.Table.from_arrays(columns, schema=schema)
