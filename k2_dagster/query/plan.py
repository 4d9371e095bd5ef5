"""Planning: the files of one pinned snapshot that a filter leaves, and what it spared."""

from dataclasses import dataclass

from pyiceberg.expressions import BooleanExpression
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from k2_dagster.errors import QueryRefused
from k2_dagster.lake.catalog import translated_errors
from k2_dagster.query.predicates import filter_text


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A data file as the table names it."""

    path: str
    rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TablePlan:
    """What a query reads of one table, and what the whole table has. `snapshot_id` is None for an empty table."""

    table: str
    snapshot_id: int | None
    filter: str
    files: tuple[PlannedFile, ...]
    total_files: int
    total_rows: int
    total_bytes: int

    @property
    def rows(self) -> int:
        """Rows in the planned files."""
        return sum(one.rows for one in self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of the planned files."""
        return sum(one.size_bytes for one in self.files)


def plan_table(table: Table, row_filter: BooleanExpression) -> TablePlan:
    """Plan the table's current snapshot, as loaded.

    Raises QueryRefused when a planned file has delete files: what they delete would be read as if it were there.
    """
    name = ".".join(table.name())
    snapshot = table.current_snapshot()
    if snapshot is None:
        return TablePlan(name, None, filter_text(row_filter), (), 0, 0, 0)
    with translated_errors():
        try:
            tasks = list(table.scan(row_filter=row_filter, snapshot_id=snapshot.snapshot_id).plan_files())
        except (ValueError, NotImplementedError) as error:
            raise QueryRefused(f"{name} cannot be planned: {error}", table=name) from error
    deleting = [task.file.file_path for task in tasks if task.delete_files]
    if deleting:
        raise QueryRefused(
            f"{name} has delete files on {len(deleting)} of its data files, as {deleting[0]}",
            advice="K2 only appends; another engine deleted rows. Rewrite the table there without delete files",
            table=name,
        )
    files = tuple(
        PlannedFile(task.file.file_path, task.file.record_count, task.file.file_size_in_bytes) for task in tasks
    )
    return TablePlan(
        name,
        snapshot.snapshot_id,
        filter_text(row_filter),
        files,
        _total(snapshot, "total-data-files"),
        _total(snapshot, "total-records"),
        _total(snapshot, "total-files-size"),
    )


def _total(snapshot: Snapshot, key: str) -> int:
    return int((snapshot.summary and snapshot.summary.get(key)) or 0)
