"""One outcome into the tables, in the order that makes any crash harmless (DESIGN D5, D6, D20).

1. files        write the Parquet files; nothing refers to them yet
2. quarantine   attempt, fenced append and settle of the refused messages: before the data, so that a message is
                never nowhere
3. attempt      what the data commit is about to say, with the tracker state after it
4. append       the fenced append: the moment it becomes true
5. settle       fold it into `commits` and the ledger
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.compute as pc
from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from k2_dagster import __version__
from k2_dagster.ingest.outcome import Outcome
from k2_dagster.ingest.resume import QUARANTINE_TABLE, Position
from k2_dagster.lake.append import Append, Landed, fenced_append
from k2_dagster.lake.catalog import load_table
from k2_dagster.lake.expiry import expire_snapshots, expiry_is_due
from k2_dagster.lake.fence import position_key
from k2_dagster.lake.parquet import DataFiles, data_path
from k2_dagster.observability.points import reached
from k2_dagster.observability.stopping import APPENDING
from k2_dagster.schemas.datasets import TABLES
from k2_dagster.schemas.quarantine import QUARANTINE
from k2_dagster.state.attempts import Attempt, LandedCommit, Range, collect_lost, insert_attempt, settle
from k2_dagster.state.database import Database


@dataclass(frozen=True, slots=True)
class CommitReport:
    """What one commit of the loop did."""

    exchange: str
    dataset: str
    commit_id: str
    snapshot_id: int
    rows: int
    quarantined: int
    counts: Mapping[str, Any]
    days: Mapping[str, int]
    commit_seconds: float
    lag_messages: int


@dataclass(frozen=True, slots=True)
class Written:
    """An outcome whose rows are in files, and no more in memory. `rows` are per day."""

    commit_id: str
    outcome: Outcome
    rows: Mapping[str, int]
    quarantined: int
    files: list[DataFile]
    quarantine_files: list[DataFile]


class Committer:
    """Commits the outcomes of one stream, in order, and keeps its position up to date."""

    def __init__(
        self, catalog: Catalog, database: Database, position: Position, rules_version: int, run_id: str, keep: int
    ) -> None:
        self.catalog = catalog
        self.database = database
        self.position = position
        self.rules_version = rules_version
        self.run_id = run_id
        self.keep = keep
        self._data: Table = load_table(catalog, position.table)
        self._quarantine: Table = load_table(catalog, QUARANTINE_TABLE)
        self._data_files = DataFiles(self._data, TABLES[position.dataset])
        self._quarantine_files = DataFiles(self._quarantine, QUARANTINE)

    def write(self, outcome: Outcome) -> Written:
        """Write the files of one outcome (step 1); nothing refers to them yet. May run beside an earlier `commit`."""
        commit_id = str(uuid.uuid4())
        files = self._write(outcome, commit_id)
        quarantine_files = self._write_quarantine(outcome, commit_id)
        reached("files.written")
        rows = {day: table.num_rows for day, table in outcome.days.items()}
        quarantined = outcome.quarantine.num_rows
        told = replace(outcome, days={}, quarantine=outcome.quarantine.slice(0, 0))
        return Written(commit_id, told, rows, quarantined, files, quarantine_files)

    def commit(self, written: Written) -> CommitReport:
        """Commit what was written. Raises FenceMoved, CommitUnknown or another transient error: resume then."""
        ranges = written.outcome.ranges
        if written.quarantine_files:  # Step 2
            self._commit_quarantine(written)
        attempt = self._attempt(written)
        insert_attempt(self.database, attempt)  # Step 3
        reached("state.written")
        ends = _ends(ranges)
        landed = self._append(attempt, written.files, self.position.expected, ends)  # Step 4
        self._settle(attempt, landed)  # Step 5
        self.position.expected.update(ends)
        for one in ranges:
            self.position.starts[one.partition] = one.end
        self.position.previous_id = written.commit_id
        self._expire(self.position.table, landed)
        return self._report(attempt, landed)

    def _write(self, outcome: Outcome, commit_id: str) -> list[DataFile]:
        return [
            self._data_files.write(rows, data_path(self._data, self.position.exchange, day, commit_id))
            for day, rows in outcome.days.items()
        ]

    def _write_quarantine(self, outcome: Outcome, commit_id: str) -> list[DataFile]:
        files = []
        days = pc.strftime(outcome.quarantine["kafka_timestamp"], format="%Y-%m-%d")
        for day in days.unique().to_pylist():
            rows = outcome.quarantine.filter(pc.equal(days, day))
            path = data_path(self._quarantine, self.position.exchange, day, f"{self.position.dataset}-{commit_id}")
            files.append(self._quarantine_files.write(rows, path))
        return files

    def _commit_quarantine(self, written: Written) -> None:
        position, outcome, files = self.position, written.outcome, written.quarantine_files
        attempt = Attempt(
            id=str(uuid.uuid4()),
            table_name=QUARANTINE_TABLE,
            exchange=position.exchange,
            dataset=position.dataset,
            previous_id=position.quarantine_previous_id,
            ranges=outcome.quarantine_ranges,
            counts={
                "consumed": outcome.counts["consumed"],
                "rows": written.quarantined,
                "quarantined": written.quarantined,
                "reasons": outcome.counts["reasons"],
                **_file_counts(files),
            },
            days=_day_counts(files, self._quarantine),
            schema_ids=outcome.schema_ids,
            rules_version=self.rules_version,
            run_id=self.run_id,
            code_version=__version__,
        )
        insert_attempt(self.database, attempt)
        ends = _never_back(_ends(outcome.quarantine_ranges), position.quarantine_expected)
        landed = self._append(attempt, files, position.quarantine_expected, ends)
        self._settle(attempt, landed)
        position.quarantine_expected.update(ends)
        position.quarantine_previous_id = attempt.id
        self._expire(QUARANTINE_TABLE, landed)

    def _attempt(self, written: Written) -> Attempt:
        outcome = written.outcome
        return Attempt(
            id=written.commit_id,
            table_name=self.position.table,
            exchange=self.position.exchange,
            dataset=self.position.dataset,
            previous_id=self.position.previous_id,
            ranges=outcome.ranges,
            counts={**outcome.counts, **_file_counts(written.files)},
            days=written.rows,
            schema_ids=outcome.schema_ids,
            rules_version=self.rules_version,
            run_id=self.run_id,
            code_version=__version__,
            ledger=outcome.ledger,
            state=outcome.state,
        )

    def _append(
        self, attempt: Attempt, files: list[DataFile], expected: Mapping[str, int | None], ends: Mapping[str, int]
    ) -> Landed:
        append = Append(
            table=attempt.table_name,
            commit_id=attempt.id,
            stream=self.position.stream,
            # also the partitions that this commit does not move: the tracker state that it leaves behind spans them all
            starts=dict(expected),
            ends=ends,
            files=files,
            previous_id=attempt.previous_id,
            rules=self.position.rules,
        )
        with APPENDING.entered():
            return fenced_append(self.catalog, self.database, append)

    def _settle(self, attempt: Attempt, landed: Landed) -> None:
        reached("settle.before")
        commit = LandedCommit(attempt.id, landed.snapshot_id, landed.stamp, landed.seconds)
        settle(self.database, attempt.table_name, [commit])
        reached("settle.after")

    def _expire(self, table: str, landed: Landed) -> None:
        if expiry_is_due(landed.snapshots, self.keep) and not self.database.stop.is_set():
            expire_snapshots(self.catalog, self.database, table, self.keep)
            collect_lost(self.database, table)

    def _report(self, attempt: Attempt, landed: Landed) -> CommitReport:
        position = self.position
        lag = sum(max(0, end - position.starts[partition]) for partition, end in position.ends.items())
        return CommitReport(
            exchange=attempt.exchange,
            dataset=attempt.dataset,
            commit_id=attempt.id,
            snapshot_id=landed.snapshot_id,
            rows=int(attempt.counts["rows"]),
            quarantined=int(attempt.counts["quarantined"]),
            counts=attempt.counts,
            days=attempt.days,
            commit_seconds=landed.seconds,
            lag_messages=lag,
        )


def _ends(ranges: Sequence[Range]) -> dict[str, int]:
    """Positions after a commit. They may be lower than before: a log that shrank gives its offsets out again."""
    return {position_key(one.topic_id, one.partition): one.end for one in ranges}


def _never_back(ends: Mapping[str, int], expected: Mapping[str, int | None]) -> dict[str, int]:
    """Quarantine may be ahead of the data after a crash, and must not fall back."""
    return {key: max(end, expected[key] or 0) for key, end in ends.items()}


def _file_counts(files: list[DataFile]) -> dict[str, int]:
    return {"files": len(files), "bytes": sum(one.file_size_in_bytes for one in files)}


def _day_counts(files: list[DataFile], table: Table) -> dict[str, int]:
    prefix = f"{table.location().rstrip('/')}/data/"
    return {one.file_path.removeprefix(prefix).split("/day=", 1)[1].split("/", 1)[0]: one.record_count for one in files}
