"""What the checks of one partition need to know, gathered once: from its files, its commits, its gaps and Kafka."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dagster_duckdb import DuckDBResource
from pyiceberg.table import Table
from sqlalchemy import select

from k2_dagster.assets.check_sql import COUNTED, CheckSql, check_sql
from k2_dagster.assets.partitions import is_open
from k2_dagster.errors import K2Error
from k2_dagster.ingest.lag import oldest_unlanded
from k2_dagster.lake.fence import read_fence
from k2_dagster.lake.settle import settle_lineage
from k2_dagster.resources.lake import PartitionFiles, partition_files
from k2_dagster.resources.platform import Platform
from k2_dagster.schemas import iceberg
from k2_dagster.schemas.datasets import TABLES, WIRE_DATASETS, table_name
from k2_dagster.state.gaps import open_gaps
from k2_dagster.state.tables import commits


@dataclass(frozen=True, slots=True)
class Repeats:
    """How many rows are other than they must be (as repeating what is unique), and a few of them."""

    rows: int = 0
    examples: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class CommitFacts:
    """What `commits` says of the partition, up to the pinned head, which is at position `through`. `broken` are commits
    that do not add up."""

    rows: int = 0
    commits: int = 0
    through: int = 0
    broken: Sequence[str] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    rules: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FreshnessFacts:
    """How far the stream is behind. `judged` is False for a closed day and for the quarantine table."""

    judged: bool
    lag_messages: int = 0
    oldest: datetime | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """One partition at one snapshot."""

    dataset: str
    exchange: str
    day: str
    snapshot_id: int | None
    rows: int
    bytes: int
    repeated_offsets: Repeats
    repeated_identities: Repeats
    backwards: Repeats
    split_symbols: Repeats
    skewed: Repeats
    against_sequence: Repeats
    reasons: Mapping[str, int]
    commits: CommitFacts
    gaps: Sequence[Mapping[str, Any]]
    freshness: FreshnessFacts
    schema_differences: Sequence[str]
    files: int = 0


def gather(platform: Platform, duckdb: DuckDBResource, dataset: str, exchange: str, day: str) -> PartitionFacts:
    """Read one partition once. Raises NotInitialized, WarehouseUnavailable, DatabaseUnavailable, QueryRefused."""
    with partition_files(platform, dataset, exchange, day) as files:
        read = _read_rows(platform, duckdb, dataset, exchange, files)
    return PartitionFacts(
        dataset=dataset,
        exchange=exchange,
        day=day,
        snapshot_id=files.table.metadata.current_snapshot_id,
        bytes=files.bytes,
        files=len(files.paths),
        **read,
        commits=_commit_facts(platform, files.table, dataset, exchange, day),
        gaps=open_gaps(platform.database, dataset, exchange, day),
        freshness=_freshness(platform, dataset, exchange, day),
        schema_differences=schema_differences(files.table, dataset),
    )


def _read_rows(
    platform: Platform, duckdb: DuckDBResource, dataset: str, exchange: str, files: PartitionFiles
) -> dict[str, Any]:
    sql = check_sql(TABLES[dataset], platform.profiles.exchange(exchange))
    out: dict[str, Any] = {"rows": 0, "reasons": {}}
    out |= dict.fromkeys(COUNTED, Repeats())
    if not files.paths:
        return out
    with duckdb.get_connection() as connection:
        connection.execute(sql.load, [files.paths])
        out["rows"] = connection.execute("SELECT count(*) FROM part").fetchone()[0]
        for name in COUNTED:
            out[name] = _repeats(connection, getattr(sql, name))
        out |= _told(connection, sql)
    return out


def _told(connection: Any, sql: CheckSql) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if sql.reasons:
        out["reasons"] = dict(connection.execute(sql.reasons).fetchall())
    return out


def _repeats(connection: Any, query: str) -> Repeats:
    if not query:
        return Repeats()
    found = _records(connection.execute(query))
    # the window total comes with every example
    total = int(found[0]["total"]) if found else 0
    return Repeats(total, [{key: value for key, value in one.items() if key != "total"} for one in found])


def _records(result: Any) -> list[dict[str, Any]]:
    names = [one[0] for one in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _commit_facts(platform: Platform, table: Table, dataset: str, exchange: str, day: str) -> CommitFacts:
    head = read_fence(table.metadata).commit_id
    if head is None:
        return CommitFacts()
    # the head that was read may have landed a moment ago
    settle_lineage(platform.database, table_name(dataset), table.metadata)
    rows = count = 0
    broken: list[str] = []
    reasons: dict[str, int] = {}
    rules: dict[str, int] = {}
    with platform.database.begin() as connection:
        through = int(connection.execute(select(commits.c.position).where(commits.c.id == head)).scalar() or 0)
        query = select(commits.c.id, commits.c.days, commits.c.counts, commits.c.ranges).where(
            commits.c.table_name == table_name(dataset),
            commits.c.exchange == exchange,
            commits.c.position <= through,
            commits.c.days.has_key(day),
        )
        for one in connection.execute(query):
            rows, count = rows + int(one.days[day]), count + 1
            broken += _broken(dataset, one)
            _add(reasons, one.counts.get("reasons", {}))
            _add(rules, one.counts.get("rules", {}))
    return CommitFacts(rows, count, through, broken, reasons, rules)


def _broken(dataset: str, commit: Any) -> list[str]:
    """Ranges that lose or invent messages: what was consumed is in the table or in quarantine, all of it."""
    if dataset not in WIRE_DATASETS:
        return []
    return [
        f"{commit.id}: {one['topic']} partition {one['partition']} [{one['start']}, {one['end']}): consumed "
        f"{one['consumed']}, rows {one['rows']}, quarantined {one['quarantined']}"
        for one in commit.ranges
        if one["consumed"] != one["rows"] + one["quarantined"]
    ]


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        total[name] = total.get(name, 0) + int(count)


def _freshness(platform: Platform, dataset: str, exchange: str, day: str) -> FreshnessFacts:
    if dataset not in WIRE_DATASETS or not is_open(day):
        return FreshnessFacts(judged=False)
    report = platform.lag.read([exchange])
    lag = next((one for one in report.lags if one.dataset == dataset), None)
    try:
        if lag is None:
            error = next((one for topic, one in report.errors.items() if topic.split(".")[1] == dataset), None)
            return FreshnessFacts(judged=True, error=error.message if error else "the exchange has no such topic")
        oldest = oldest_unlanded(platform.settings, lag) if lag.unlanded_messages else None
    except K2Error as error:
        return FreshnessFacts(judged=True, lag_messages=lag.unlanded_messages if lag else 0, error=error.message)
    return FreshnessFacts(judged=True, lag_messages=lag.unlanded_messages, oldest=oldest)


def schema_differences(table: Table, dataset: str) -> list[str]:
    """How the table's schema and partitioning differ from the declaration, in words."""
    wanted, found = (
        {one.field_id: (one.name, str(one.field_type), "required" if one.required else "optional") for one in fields}
        for fields in (iceberg.table_schema(TABLES[dataset]).fields, table.schema().fields)
    )
    out = [
        f"column {number}: declared {_words(wanted.get(number))}, in the table {_words(found.get(number))}"
        for number in sorted(wanted.keys() | found.keys())
        if wanted.get(number) != found.get(number)
    ]
    if table.spec().fields != iceberg.partition_spec(TABLES[dataset]).fields:
        out.append(f"partitioning: declared {iceberg.partition_spec(TABLES[dataset])}, in the table {table.spec()}")
    return out


def _words(column: tuple[str, str, str] | None) -> str:
    return "nothing" if column is None else " ".join(column)
