"""The mirror: what landed, as Dagster materializations, from `k2.commits`.

Runs and `k2 ingest` processes only commit. The check run of a partition reports what it has read together with what it
found, so that a partition is never shown without its checks; the sensor `commits` launches it, and reports by itself
what no check run does.

What is guaranteed: every commit is counted in exactly one mirrored materialization of each partition that it touched,
whoever reports, and also when a process, the daemon or Dagster's database dies at any point.

1. lock      one reporter at a time, on PostgreSQL
2. confirm   the newest mirrored materialization of the partition says through which position it counts
3. report    one event for what is behind that position
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg
from sqlalchemy import Connection, text

from k2_dagster.assets.landed import PartitionSize, commits_behind, landed_metadata
from k2_dagster.assets.partitions import Partition, partition_key
from k2_dagster.resources.platform import Platform
from k2_dagster.state.database import Database
from k2_dagster.state.locks import lock_key

# One event a minute per partition: at 30 streams 90 MB a day in Dagster's storage, where one per commit is 1.8 GB. The
# sensor launches once a minute; of two runs, the second may come to its report some seconds sooner than the first.
REPORT_INTERVAL_SECONDS = 50.0
# A partition whose check takes long is reported and checked less often: a check's own time, this many times ...
CHECK_TIMES = 20.0
# ... but its state in the UI is never older than this.
LONGEST_INTERVAL_SECONDS = 600.0
# Materializations of one partition looked through for the newest mirrored one; hand-made ones may lie between.
EVENTS_READ = 20
# Between two tries for the lock, which is held for a second or two by a check run.
LOCK_RETRY_SECONDS = 0.1

THROUGH = "through_position"
CHECK_SECONDS = "check_seconds"
LOCK_NAME = "k2:mirror"


@dataclass(frozen=True, slots=True)
class Report:
    """What the newest mirrored materialization of a partition says: through which commit it counts, when it was written
    (epoch seconds), and how long the check took that came with it (0 without one)."""

    through: int = 0
    at: float = 0.0
    check_seconds: float = 0.0

    @property
    def next_at(self) -> float:
        """When the partition may be reported again (epoch seconds)."""
        return self.at + min(max(REPORT_INTERVAL_SECONDS, CHECK_TIMES * self.check_seconds), LONGEST_INTERVAL_SECONDS)


@contextmanager
def reporter(database: Database, patience_seconds: float = 0.0) -> Iterator[bool]:
    """Be the only reporter within the block (step 1), or be told False after so long."""
    deadline = time.monotonic() + patience_seconds
    with database.begin() as connection:
        while not (mine := _try_lock(connection)) and time.monotonic() < deadline:
            time.sleep(LOCK_RETRY_SECONDS)
        yield mine


def report(
    instance: dg.DagsterInstance,
    k2: Platform,
    partition: Partition,
    through: int,
    size: PartitionSize,
    check_seconds: float | None = None,
) -> bool:
    """Report what landed in a partition up to the commit at position `through`. Says whether there was something.

    Call it as the `reporter`: two at once could count a commit twice.
    """
    found = commits_behind(k2.database, partition, last_report(instance, partition).through, through)  # Step 2
    if not found:
        return False
    metadata = landed_metadata(k2.database, partition, found, size) | {THROUGH: int(found[-1].position)}
    if check_seconds is not None:
        metadata[CHECK_SECONDS] = round(check_seconds, 3)
    dataset, exchange, day = partition
    event = dg.AssetMaterialization(
        asset_key=dg.AssetKey(dataset),
        partition=partition_key(exchange, day),
        description=f"{len(found)} commits",
        metadata=metadata,
    )
    instance.report_runless_asset_event(event)  # Step 3
    return True


def last_report(instance: dg.DagsterInstance, partition: Partition) -> Report:
    """What the newest mirrored materialization of a partition says; a Report of nothing without one."""
    dataset, exchange, day = partition
    of_partition = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey(dataset), asset_partitions=[partition_key(exchange, day)]
    )
    page: str | None = None
    while True:
        found = instance.fetch_materializations(of_partition, limit=EVENTS_READ, cursor=page)
        for record in found.records:
            event = record.asset_materialization
            if event is not None and THROUGH in event.metadata:
                seconds = event.metadata.get(CHECK_SECONDS)
                through = int(str(event.metadata[THROUGH].value))
                return Report(through, record.timestamp, float(str(seconds.value)) if seconds is not None else 0.0)
        if not found.has_more:
            return Report()
        page = found.cursor


def _try_lock(connection: Connection) -> bool:
    key = {"key": lock_key(LOCK_NAME)}
    return bool(connection.execute(text("select pg_try_advisory_xact_lock(:key)"), key).scalar_one())
