"""What landed in a partition, as metadata of its materializations: a slice of commits, and the day as a whole."""

import statistics
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from sqlalchemy import ColumnElement, and_, func, select

from k2_dagster.assets.partitions import Partition, is_partition
from k2_dagster.resources.lake import partition_files
from k2_dagster.resources.platform import Platform
from k2_dagster.schemas.datasets import table_name
from k2_dagster.state.database import Database
from k2_dagster.state.gap_states import MISSING_STATES
from k2_dagster.state.tables import commits, gaps

# Dagster's own name for the size of a table; the UI shows it in the asset's overview.
ROW_COUNT = "dagster/row_count"
# Runs that are linked; a report of a minute rarely has more than two.
RUNS_SHOWN = 5
_COUNTS = ("quarantined", "duplicates", "late", "bytes")


@dataclass(frozen=True, slots=True)
class PartitionSize:
    """A partition as a whole, at one snapshot."""

    rows: int
    bytes: int
    files: int


def partition_size(k2: Platform, partition: Partition) -> PartitionSize:
    """From the table's metadata; no data file is read. Raises NotInitialized, WarehouseUnavailable, QueryRefused."""
    with partition_files(k2, *partition) as files:
        return PartitionSize(files.rows, files.bytes, len(files.paths))


def commits_behind(database: Database, partition: Partition, after: int, through: int) -> Sequence[Any]:
    """Commits that touched the partition, at positions beyond `after` up to `through`, oldest first."""
    return _commits(database, partition, commits.c.position > after, commits.c.position <= through)


def is_behind(database: Database, partition: Partition, after: int, through: int) -> bool:
    """Whether there are such commits."""
    conditions = _of_partition(partition), commits.c.position > after, commits.c.position <= through
    query = select(commits.c.position).where(*conditions).limit(1)
    with database.begin() as connection:
        return connection.execute(query).first() is not None


def commits_of_run(database: Database, partition: Partition, run_id: str) -> Sequence[Any]:
    """Commits of one run that touched the partition, oldest first."""
    return _commits(database, partition, commits.c.run_id == run_id)


def landed_today(k2: Platform, dataset: str) -> list[Partition]:
    """Today's (UTC) partitions of a table that commits touched."""
    today = datetime.now(UTC).date().isoformat()
    query = (
        select(commits.c.exchange)
        .where(commits.c.table_name == table_name(dataset), commits.c.days.has_key(today))
        .distinct()
        .order_by(commits.c.exchange)
    )
    with k2.database.begin() as connection:
        exchanges = [str(one) for one in connection.execute(query).scalars()]
    return [(dataset, one, today) for one in exchanges if is_partition(k2.profiles, one, today)]


def landed_metadata(
    database: Database, partition: Partition, found: Sequence[Any], size: PartitionSize
) -> dict[str, Any]:
    """Metadata of a materialization: of the commits given, and of the day. Numbers are what the UI can plot."""
    whole = {ROW_COUNT: size.rows, "day_bytes": size.bytes, "day_files": size.files, "gaps": _gaps(database, partition)}
    # The UI shows them in this order: numbers and runs first, what takes many lines last
    return slice_numbers(found, partition[2]) | whole | slice_texts(found)


def slice_numbers(found: Sequence[Any], day: str) -> dict[str, Any]:
    """Of some commits, for one of the days they touched.

    `rows` are those of the day; the other counts and the bytes are of whole commits, which may touch two days.
    """
    counts = {name: sum(int(one.counts.get(name, 0)) for one in found) for name in _COUNTS}
    out: dict[str, Any] = {"rows": sum(int(one.days[day]) for one in found), **counts, "commits": len(found)}
    seconds = sorted(float(one.commit_seconds) for one in found if one.commit_seconds is not None)
    if seconds:
        middle, longest = round(statistics.median(seconds), 6), round(seconds[-1], 6)
        out |= {"commit_seconds_p50": middle, "commit_seconds_max": longest}
    return out


def slice_texts(found: Sequence[Any]) -> dict[str, Any]:
    """Of some commits, oldest first: who made them, and where they end."""
    if not found:
        return {}
    last = found[-1]
    return {
        **_runs(found),
        "last_commit": dg.MetadataValue.timestamp(last.stamp),
        # as text: snapshot ids are beyond what a browser's numbers hold exactly
        "snapshot_id": str(last.snapshot_id),
        "rules_version": int(last.rules_version),
        "code_version": last.code_version,
        "schema_ids": dg.MetadataValue.json(sorted({number for one in found for number in one.schema_ids})),
        "offsets": dg.MetadataValue.json(_offsets(found)),
    }


def _commits(database: Database, partition: Partition, *conditions: ColumnElement[bool]) -> Sequence[Any]:
    query = select(commits).where(_of_partition(partition), *conditions).order_by(commits.c.position)
    with database.begin() as connection:
        return connection.execute(query).all()


def _of_partition(partition: Partition) -> ColumnElement[bool]:
    dataset, exchange, day = partition
    of_stream = and_(commits.c.table_name == table_name(dataset), commits.c.exchange == exchange)
    return and_(of_stream, commits.c.days.has_key(day))


def _offsets(found: Sequence[Any]) -> Mapping[str, list[int]]:
    """Offset range by topic and partition, over all commits."""
    offsets: dict[str, list[int]] = {}
    for commit in found:
        for one in commit.ranges:
            place = f"{one['topic']}:{one['partition']}"
            known = offsets.setdefault(place, [int(one["start"]), int(one["end"])])
            known[0], known[1] = min(known[0], int(one["start"])), max(known[1], int(one["end"]))
    return offsets


def _runs(found: Sequence[Any]) -> dict[str, Any]:
    """Who committed, newest first: a link for a run of Dagster's, the name of a `k2 ingest` process."""
    newest_first = list(dict.fromkeys(one.run_id for one in reversed(found) if one.run_id))
    shown: dict[str, Any] = {"runs": len(newest_first)}
    for number, run_id in enumerate(newest_first[:RUNS_SHOWN], start=1):
        name = "run" if number == 1 else f"run_{number}"
        shown[name] = dg.MetadataValue.dagster_run(run_id) if _is_run(run_id) else run_id
    return shown


def _is_run(run_id: str) -> bool:
    try:
        uuid.UUID(run_id)
    except ValueError:
        return False
    return True


def _gaps(database: Database, partition: Partition) -> int:
    """Gaps of the day whose numbers are missing."""
    dataset, exchange, day = partition
    of_day = (gaps.c.dataset == dataset) & (gaps.c.exchange == exchange) & (gaps.c.event_day == day)
    query = select(func.count()).where(of_day, gaps.c.state.in_(MISSING_STATES))
    with database.begin() as connection:
        return int(connection.execute(query).scalar_one())
