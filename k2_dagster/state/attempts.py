"""Attempts and commits (DESIGN D6): Iceberg decides, PostgreSQL follows.

An attempt is written before its Iceberg commit and never changed. It becomes true when the table's head names it;
`settle` then copies it into `commits` and folds its ledger changes, once, in lineage order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, text

from k2_dagster.errors import TerminalError
from k2_dagster.state.database import Database
from k2_dagster.state.ledger import Change, as_records, fold_changes
from k2_dagster.state.locks import take_lock
from k2_dagster.state.positions import mark_applied
from k2_dagster.state.tables import attempts, commits
from k2_dagster.state.totals import add_to_totals

# An attempt that lost its race is kept this long, for whoever wants to know what happened.
LOST_ATTEMPT_HOURS = 24


@dataclass(frozen=True, slots=True)
class Range:
    """One topic-partition of an attempt: offsets [start, end), and what became of the messages in it."""

    topic: str
    topic_id: str
    topic_epoch: int
    partition: int
    start: int
    end: int
    consumed: int
    rows: int
    quarantined: int
    digest: str
    quarantine_digest: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a commit is about to say. `counts` holds consumed, rows, quarantined, duplicates, late, files, reasons."""

    id: str
    table_name: str
    exchange: str
    dataset: str
    previous_id: str | None
    ranges: Sequence[Range]
    counts: Mapping[str, Any]
    days: Mapping[str, int]
    schema_ids: Sequence[int]
    rules_version: int
    run_id: str
    code_version: str
    ledger: Sequence[Change] = field(default_factory=tuple)
    state: bytes | None = None


@dataclass(frozen=True, slots=True)
class LandedCommit:
    """A commit that the table's lineage names."""

    commit_id: str
    snapshot_id: int
    stamp: datetime
    commit_seconds: float | None = None


def insert_attempt(database: Database, attempt: Attempt) -> None:
    """Write the attempt. One transaction, before the Iceberg commit."""
    row = {
        **{name: getattr(attempt, name) for name in _COPIED if name != "ranges"},
        "ranges": [asdict(one) for one in attempt.ranges],
        "previous_id": attempt.previous_id,
        "ledger": as_records(attempt.ledger),
        "state": attempt.state,
    }
    with database.begin() as connection:
        connection.execute(insert(attempts), row)


def attempt_state(database: Database, attempt_id: str) -> bytes | None:
    """The tracker state after a landed attempt. Raises TerminalError when the attempt is not on record."""
    with database.begin() as connection:
        found = connection.execute(select(attempts.c.state).where(attempts.c.id == attempt_id)).one_or_none()
    if found is None:
        raise TerminalError(
            f"the table's head names attempt {attempt_id}, which the control database does not have",
            advice="the control database is older than the table: see docs/recovery.md, 'Control database restored'",
        )
    return None if found.state is None else bytes(found.state)


def unsettled(database: Database, commit_ids: Sequence[str]) -> list[str]:
    """Those of the ids that are not in `commits` yet, in the given order."""
    if not commit_ids:
        return []
    with database.begin() as connection:
        known = set(connection.execute(select(commits.c.id).where(commits.c.id.in_(commit_ids))).scalars())
    return [one for one in commit_ids if one not in known]


def settle(database: Database, table_name: str, landed: Sequence[LandedCommit]) -> int:
    """Fold landed commits (oldest first) into `commits` and the ledger. Idempotent; returns how many were new."""
    if not landed:
        return 0
    with database.begin() as connection:
        take_lock(database, connection, f"k2:settle:{table_name}")
        ids = [one.commit_id for one in landed]
        known = set(connection.execute(select(commits.c.id).where(commits.c.id.in_(ids))).scalars())
        fresh = [one for one in landed if one.commit_id not in known]
        for one in fresh:
            _settle_one(connection, one)
    return len(fresh)


def collect_lost(database: Database, table_name: str) -> int:
    """Delete attempts that lost their race LOST_ATTEMPT_HOURS ago; returns how many. Settle the lineage first.

    An attempt can land only while its predecessor is the head of its stream, so one whose predecessor is not the
    newest settled commit any more never will.
    """
    newest = (
        select(commits.c.id)
        .where(
            commits.c.table_name == attempts.c.table_name,
            commits.c.exchange == attempts.c.exchange,
            commits.c.dataset == attempts.c.dataset,
        )
        .order_by(commits.c.position.desc())
        .limit(1)
        .scalar_subquery()
    )
    old = text(f"attempts.created_at < now() - interval '{LOST_ATTEMPT_HOURS} hours'")
    lost = (attempts.c.table_name == table_name) & attempts.c.previous_id.is_distinct_from(newest)
    settled = select(commits.c.id).where(commits.c.id == attempts.c.id).exists()
    with database.begin() as connection:
        return int(connection.execute(delete(attempts).where(lost, ~settled, old)).rowcount)


_COPIED = (
    "id",
    "table_name",
    "exchange",
    "dataset",
    "ranges",
    "counts",
    "days",
    "schema_ids",
    "rules_version",
    "run_id",
    "code_version",
)


# Without the tracker's state, which may be a megabyte and is of no use here.
_ATTEMPT = select(*(attempts.c[name] for name in (*_COPIED, "previous_id", "ledger"))).where(
    attempts.c.id == bindparam("wanted")
)


def _settle_one(connection: Connection, landed: LandedCommit) -> None:
    attempt = connection.execute(_ATTEMPT, {"wanted": landed.commit_id}).one_or_none()
    if attempt is None:
        raise TerminalError(
            f"snapshot {landed.snapshot_id} names attempt {landed.commit_id}, which the control database does not have",
            advice="the control database is older than the table: see docs/recovery.md, 'Control database restored'",
        )
    connection.execute(
        insert(commits),
        {
            **{name: getattr(attempt, name) for name in _COPIED},
            "snapshot_id": landed.snapshot_id,
            "stamp": landed.stamp,
            "commit_seconds": landed.commit_seconds,
        },
    )
    moved = [(one["topic_id"], one["partition"]) for one in attempt.ranges if one["start"] != one["end"]]
    if moved:
        mark_applied(connection, attempt.table_name, landed.commit_id, moved)
    stream = (attempt.table_name, attempt.exchange, attempt.dataset)
    add_to_totals(connection, stream, attempt.counts, landed.stamp)
    fold_changes(connection, attempt)
    if attempt.previous_id is not None:
        # settled before this one, and nothing resumes from it any more: `commits` has what is worth keeping
        connection.execute(delete(attempts).where(attempts.c.id == attempt.previous_id))
