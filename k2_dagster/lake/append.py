"""The fenced append: the one way rows enter a table (DESIGN D5).

1. lock      take the table's commit lock (the files are written already)
2. reload    load the table as it is now
3. compare   our id in the lineage: landed. Another start, predecessor or set of rules than the fence shows: refused
4. merge     the new vector, and a stamp after the head's
5. commit    property, vector, id and files in one Iceberg transaction
6. unknown   if the answer was lost, reload and look for our id; never append again without looking
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata

from k2_dagster.errors import CommitUnknown, FenceMoved, TransientError
from k2_dagster.lake.catalog import load_table, translated_errors
from k2_dagster.lake.expiry import expirable
from k2_dagster.lake.fence import (
    Fence,
    Rules,
    Vector,
    ingest_lineage,
    merged,
    moved_keys,
    next_stamp,
    read_fence,
    snapshot_properties,
    table_properties,
)
from k2_dagster.lake.manifests import TieredAppend
from k2_dagster.observability.points import reached
from k2_dagster.state.database import Database
from k2_dagster.state.locks import table_lock

logger = logging.getLogger(__name__)

# Somebody else's commit (compaction, another exchange) may come between reload and commit this often before we give up.
MAX_TRIES = 10
# How long the outcome of a commit whose answer was lost may stay unreadable before the caller must deal with it.
OUTCOME_DEADLINE_SECONDS = 60.0
OUTCOME_RETRY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Append:
    """What to append. `starts` are the positions that the batch was built on (None: the partition was never read),
    `previous_id` the stream's commit before, `rules` what it was judged by."""

    table: str
    commit_id: str
    stream: str
    starts: Mapping[str, int | None]
    ends: Vector
    files: Sequence[DataFile]
    previous_id: str | None
    rules: Rules


@dataclass(frozen=True, slots=True)
class Landed:
    """A commit that is in the table. `snapshots` are those that the table keeps now, but for tags and branches."""

    snapshot_id: int
    stamp: datetime
    seconds: float
    tries: int
    snapshots: int


class _Transaction(Transaction):
    """PyIceberg copies the whole metadata each time that a transaction is asked for it, some fifteen times in a commit:
    most of a commit's time, and under the interpreter lock. Table and staged updates decide it, so one copy does."""

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self._copied: tuple[TableMetadata, object, TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """The table's metadata with the updates staged so far."""
        base = self._table.metadata
        if self._copied is None or self._copied[0] is not base or self._copied[1] is not self._updates:
            self._copied = (base, self._updates, super().table_metadata)
        return self._copied[2]


def fenced_append(catalog: Catalog, database: Database, append: Append) -> Landed:
    """Append once, or raise.

    Raises FenceMoved when another writer owns the range, CommitUnknown when the outcome cannot be read back, and
    DatabaseUnavailable or WarehouseUnavailable when nothing was committed.
    """
    started = time.monotonic()
    for tries in range(1, MAX_TRIES + 1):
        try:
            return _try(catalog, database, append, started, tries)
        except CommitFailedException:
            logger.info("commit lost a race, trying again", extra={"table": append.table, "tries": tries})
    raise CommitUnknown(f"{append.table}: {MAX_TRIES} commits in a row lost a race", advice="another engine is busy")


def _try(catalog: Catalog, database: Database, append: Append, started: float, tries: int) -> Landed:
    committing = False
    try:
        with table_lock(database, append.table):  # Step 1
            table = load_table(catalog, append.table)  # Step 2
            found = _find(table, append, started, tries)  # Step 3
            if found is not None:
                return found
            fence = _compare(table, append)
            committing = True
            landed = _commit(table, append, fence, started, tries)  # Steps 4 and 5
            reached("commit.landed")
            return landed
    except TransientError as error:
        if not committing or isinstance(error, FenceMoved):
            raise
        return _outcome(catalog, append, started, tries, error, database.stop)  # Step 6


def _compare(table: Table, append: Append) -> Fence:
    fence = read_fence(table.metadata)
    moved = moved_keys(fence, append.starts)
    if moved:
        key = moved[0]
        raise FenceMoved(
            f"{append.table}: {key} is at {fence.vector.get(key)}, the batch starts at {append.starts[key]}",
            advice="another writer committed this range; reload and start from the fence",
            table=append.table,
            moved=moved,
        )
    # an offset may come round again after a log shrank; a commit does not
    head = fence.heads.get(append.stream)
    if head != append.previous_id:
        raise FenceMoved(
            f"{append.table}: {append.stream} is at commit {head}, the batch was built on {append.previous_id}",
            advice="another writer went on; reload and start from the fence",
            table=append.table,
        )
    if fence.rules.get(append.stream, append.rules) != append.rules:
        raise FenceMoved(
            f"{append.table}: {append.stream} is judged by other rules now than the batch was",
            advice="another writer has taken the stream over; reload and start from the fence",
            table=append.table,
        )
    return fence


def _commit(table: Table, append: Append, fence: Fence, started: float, tries: int) -> Landed:
    after = merged(fence, append.ends, append.stream, append.commit_id, append.rules)
    stamp = next_stamp(fence)
    reached("commit.before")
    with translated_errors(), _Transaction(table) as transaction:
        transaction.set_properties(table_properties(after))
        summary = snapshot_properties(append.commit_id, stamp, after.vector)
        with TieredAppend(transaction, summary) as producer:
            for data_file in append.files:
                producer.append_data_file(data_file)
    head = table.metadata.current_snapshot_id
    if head is None:
        raise CommitUnknown(f"{append.table}: the commit left no snapshot", advice="run `k2 verify`")
    return Landed(head, stamp, time.monotonic() - started, tries, expirable(table.metadata))


def _find(table: Table, append: Append, started: float, tries: int) -> Landed | None:
    for landed in ingest_lineage(table.metadata):
        if landed.commit_id == append.commit_id:
            seconds = time.monotonic() - started
            return Landed(landed.snapshot_id, landed.stamp, seconds, tries, expirable(table.metadata))
    return None


def _outcome(
    catalog: Catalog, append: Append, started: float, tries: int, cause: TransientError, stop: threading.Event
) -> Landed:
    deadline = time.monotonic() + OUTCOME_DEADLINE_SECONDS
    while True:
        try:
            found = _find(load_table(catalog, append.table), append, started, tries)
        except TransientError as error:
            # the database or the storage is away: ask again until the deadline, or until the process has to end
            if time.monotonic() > deadline or stop.wait(OUTCOME_RETRY_SECONDS):
                raise CommitUnknown(
                    f"{append.table}: commit {append.commit_id} may or may not have landed",
                    advice="it is looked for again at the next start; nothing is lost and nothing is doubled",
                ) from error
            continue
        if found is None:
            raise cause
        return found
