"""The mirror: what landed, as Dagster materializations, from `k2.commits` by one cursor.

Runs and `k2 ingest` processes only commit; this sensor reports. So a run that died after its commit is reported all the
same, and a table that gets a commit a second costs one event a minute per partition.

What is guaranteed: every commit is counted in exactly one materialization of each partition that it touched, also when
this process, the daemon or Dagster's database dies at any point, and when two daemons evaluate the sensor at once.

1. lock      one evaluation at a time, on PostgreSQL; a second one skips its tick
2. read      commits behind the cursor, table by table: positions become visible in order only within a table
3. choose    partitions with something to report, unless reported less than a minute ago, or not begun yet (tomorrow)
4. confirm   the newest mirrored materialization of the partition says through which position it counts
5. report    one event for what is behind that position
6. cursor    saved by Dagster after the tick; if that fails, step 4 finds what step 5 wrote
"""

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from sqlalchemy import func, select, text

from k2_dagster.assets.partitions import is_partition, partition_key
from k2_dagster.resources.platform import Platform
from k2_dagster.schemas.datasets import TABLES, table_name
from k2_dagster.sensors.reported import tell_reported
from k2_dagster.state.database import Database
from k2_dagster.state.locks import lock_key
from k2_dagster.state.tables import commits, gaps

# Dagster's loop is 5 s; see the lag sensor.
MINIMUM_INTERVAL_SECONDS = 1
# One event a minute per partition: at 30 streams 90 MB a day in Dagster's storage, where one per commit is 1.8 GB.
REPORT_INTERVAL_SECONDS = 60.0
# Commits read in a tick (2 KB each); what is left is read in the next, 5 s later.
COMMITS_READ = 5_000
# Events written in a tick (10 ms each): a tick over 60 s would lose its cursor.
REPORTS_PER_TICK = 200
# Materializations of one partition looked through for the newest mirrored one; hand-made ones may lie between.
EVENTS_READ = 20

THROUGH = "through_position"
LOCK_NAME = "k2:mirror"

Partition = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Cursor:
    """`read` is the last position read of each table; `waiting` is the first unreported one of each partition.

    `reported_at` (epoch seconds) spares a look for partitions that were reported within the interval; it proves
    nothing.
    """

    read: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[Partition, int] = field(default_factory=dict)
    reported_at: Mapping[Partition, float] = field(default_factory=dict)

    @classmethod
    def load(cls, stored: str | None) -> "Cursor":
        """From what Dagster stored; nothing stored means from the first commit on."""
        if not stored:
            return cls()
        found = json.loads(stored)
        return cls(
            read={name: int(position) for name, position in found["read"].items()},
            waiting={_partition(key): int(position) for key, position in found["waiting"].items()},
            reported_at={_partition(key): float(at) for key, at in found["reported_at"].items()},
        )

    def dump(self) -> str:
        """As JSON."""
        waiting = {"|".join(key): at for key, at in self.waiting.items()}
        reported_at = {"|".join(key): at for key, at in self.reported_at.items()}
        return json.dumps({"read": self.read, "waiting": waiting, "reported_at": reported_at})


@dataclass(frozen=True, slots=True)
class Report:
    """Where the mirror got to with one partition, and when (epoch seconds)."""

    through: int = 0
    at: float = 0.0


def _partition(key: str) -> Partition:
    dataset, exchange, day = key.split("|")
    return dataset, exchange, day


@dg.sensor(
    name="commits",
    target=dg.AssetSelection.assets(*TABLES),
    minimum_interval_seconds=MINIMUM_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Logs a materialization for each partition that commits touched, at most one a minute.",
)
def commits_sensor(context: dg.SensorEvaluationContext, k2: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """One tick."""
    with _only_one(k2.database) as mine:  # Step 1
        if not mine:
            return dg.SensorResult(skip_reason="another daemon is mirroring")
        saved = Cursor.load(context.cursor)
        tell_reported(k2.database, saved.read, saved.waiting)
        cursor, reported, invalid = mirror(context.instance, k2, saved, time.time())
    for dataset, exchange, day in invalid:
        context.log.error("%s %s %s: commits name this partition, but there is none such", dataset, exchange, day)
    words = f"{reported} partitions reported, {len(cursor.waiting)} wait"
    return dg.SensorResult(skip_reason=words, cursor=cursor.dump())


def mirror(
    instance: dg.DagsterInstance, k2: Platform, cursor: Cursor, now: float
) -> tuple[Cursor, int, list[Partition]]:
    """Report what is due. Returns the next cursor, how many events were written, and partitions that do not exist.

    Call it with the lock held: two at once could write the same event.
    """
    read, touched = read_touched(k2.database, cursor.read)  # Step 2
    waiting, invalid = dict(cursor.waiting), set()
    for partition, position in touched:
        if _is_future(partition, now) or is_partition(k2.profiles, partition[1], partition[2], _time(now)):
            waiting.setdefault(partition, position)
        else:
            invalid.add(partition)
    recently = {one: at for one, at in cursor.reported_at.items() if now - at < REPORT_INTERVAL_SECONDS}
    due = [one for one in waiting if one not in recently and not _is_future(one, now)]  # Step 3
    reported = 0
    for partition in sorted(due, key=lambda one: waiting[one])[:REPORTS_PER_TICK]:
        last = last_report(instance, partition)  # Step 4
        if now - last.at < REPORT_INTERVAL_SECONDS:
            recently[partition] = last.at
            continue
        found = _commits_of(k2.database, partition, max(waiting[partition], last.through + 1), read)
        if found:
            instance.report_runless_asset_event(_materialization(k2, partition, found))  # Step 5
            recently[partition] = now
            reported += 1
        del waiting[partition]
    return Cursor(read, waiting, recently), reported, sorted(invalid)


def read_touched(database: Database, read: Mapping[str, int]) -> tuple[dict[str, int], list[tuple[Partition, int]]]:
    """Partitions touched by commits behind the given positions (by table), each with its commit's position, and the
    positions after them. At most COMMITS_READ commits of a table at a time."""
    after, touched = dict(read), []
    with database.begin() as connection:
        for dataset in TABLES:
            name = table_name(dataset)
            query = (
                select(commits.c.position, commits.c.exchange, commits.c.days)
                .where(commits.c.table_name == name, commits.c.position > read.get(name, 0))
                .order_by(commits.c.position)
                .limit(COMMITS_READ)
            )
            for one in connection.execute(query):
                after[name] = int(one.position)
                touched += [((dataset, str(one.exchange), str(day)), int(one.position)) for day in one.days]
    return after, touched


def last_report(instance: dg.DagsterInstance, partition: Partition) -> Report:
    """What the newest mirrored materialization of a partition says."""
    dataset, exchange, day = partition
    of_partition = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey(dataset), asset_partitions=[partition_key(exchange, day)]
    )
    page: str | None = None
    while True:
        found = instance.fetch_materializations(of_partition, limit=EVENTS_READ, cursor=page)
        for record in found.records:
            event = record.asset_materialization
            through = event.metadata.get(THROUGH) if event is not None else None
            if through is not None:
                return Report(int(str(through.value)), record.timestamp)
        if not found.has_more:
            return Report()
        page = found.cursor


def _commits_of(database: Database, partition: Partition, first: int, read: Mapping[str, int]) -> Sequence[Any]:
    dataset, exchange, day = partition
    query = (
        select(commits)
        .where(
            commits.c.table_name == table_name(dataset),
            commits.c.exchange == exchange,
            commits.c.position >= first,
            commits.c.position <= read[table_name(dataset)],
            commits.c.days.has_key(day),
        )
        .order_by(commits.c.position)
    )
    with database.begin() as connection:
        return connection.execute(query).all()


def _materialization(k2: Platform, partition: Partition, found: Sequence[Any]) -> dg.AssetMaterialization:
    dataset, exchange, day = partition
    return dg.AssetMaterialization(
        asset_key=dg.AssetKey(dataset),
        partition=partition_key(exchange, day),
        description=f"{len(found)} commits",
        metadata={**summary(found, day), "gaps": _gap_count(k2.database, partition)},
    )


def summary(found: Sequence[Any], day: str) -> dict[str, Any]:
    """Metadata of commits, oldest first, for one of the days they touched. Numbers are what the UI can plot.

    `rows` are those of the day; the other counts and the bytes are of whole commits, which may touch two days.
    """
    seconds = sorted(float(one.commit_seconds) for one in found if one.commit_seconds is not None)
    offsets: dict[str, list[int]] = {}
    for commit in found:
        for one in commit.ranges:
            place = f"{one['topic']}:{one['partition']}"
            known = offsets.setdefault(place, [int(one["start"]), int(one["end"])])
            known[0], known[1] = min(known[0], int(one["start"])), max(known[1], int(one["end"]))
    last = found[-1]
    out: dict[str, Any] = {
        "rows": sum(int(one.days[day]) for one in found),
        "quarantined": sum(int(one.counts.get("quarantined", 0)) for one in found),
        "duplicates": sum(int(one.counts.get("duplicates", 0)) for one in found),
        "late": sum(int(one.counts.get("late", 0)) for one in found),
        "bytes": sum(int(one.counts.get("bytes", 0)) for one in found),
        "commits": len(found),
        "offsets": dg.MetadataValue.json(offsets),
        # as text: snapshot ids are beyond what a browser's numbers hold exactly
        "snapshot_id": str(last.snapshot_id),
        "schema_ids": dg.MetadataValue.json(sorted({number for one in found for number in one.schema_ids})),
        "last_commit": dg.MetadataValue.timestamp(last.stamp),
        "runs": dg.MetadataValue.json(sorted({one.run_id for one in found if one.run_id})),
        "code_version": last.code_version,
        "rules_version": int(last.rules_version),
        THROUGH: int(last.position),
    }
    if seconds:
        out |= {"commit_seconds_p50": round(statistics.median(seconds), 6), "commit_seconds_max": seconds[-1]}
    return out


def _gap_count(database: Database, partition: Partition) -> int:
    dataset, exchange, day = partition
    query = select(func.count()).where(
        gaps.c.dataset == dataset, gaps.c.exchange == exchange, gaps.c.event_day == day, gaps.c.state == "open"
    )
    with database.begin() as connection:
        return int(connection.execute(query).scalar_one())


def _is_future(partition: Partition, now: float) -> bool:
    """Tables keep rows of tomorrow, from venues whose clock is ahead; its partition begins at midnight."""
    return partition[2] > _time(now).date().isoformat()


def _time(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC)


@contextmanager
def _only_one(database: Database) -> Iterator[bool]:
    with database.begin() as connection:
        key = {"key": lock_key(LOCK_NAME)}
        yield bool(connection.execute(text("select pg_try_advisory_xact_lock(:key)"), key).scalar_one())
