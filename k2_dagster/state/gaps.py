"""The gap ledger: numbers that did not come within their grace, and how each ended.

Changes are proposed in an attempt and folded when it has landed, so a loser's changes are never seen and a re-run
neither loses nor doubles a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, case, func, select, update
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.state.database import Database
from k2_dagster.state.tables import gaps


@dataclass(frozen=True, slots=True)
class LedgerChange:
    """One change: `report` opens a gap row; `settle` says that `filled` of its numbers came late, and how many more
    (or, where those came late, fewer) of them are in quarantine."""

    change: Literal["report", "settle"]
    numbering: str
    stream: str
    kind: str
    session: str
    symbol: str
    first_sequence: int
    last_sequence: int
    missing: int
    filled: int
    quarantined: int
    level: str
    cause: str
    topic_epoch: int
    kafka_partition: int
    opened_offset: int
    reported_offset: int
    event_day: str


def fold_changes(connection: Connection, attempt: Any, changes: Sequence[LedgerChange]) -> None:
    """Apply an attempt's changes in their order. `attempt` is its row (dataset, exchange, id)."""
    for change in changes:
        if change.change == "report":
            _report(connection, attempt, change)
        else:
            _settle(connection, attempt, change)


def open_gaps(database: Database, dataset: str, exchange: str, day: str | None = None) -> list[dict[str, Any]]:
    """Gaps of a dataset and exchange (of one UTC day, as YYYY-MM-DD), oldest first, whatever their state."""
    query = select(gaps).where(gaps.c.dataset == dataset, gaps.c.exchange == exchange).order_by(gaps.c.id)
    if day is not None:
        query = query.where(gaps.c.event_day == day)
    with database.begin() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def _report(connection: Connection, attempt: Any, change: LedgerChange) -> None:
    names = (
        *("stream", "kind", "session", "symbol", "numbering", "first_sequence", "last_sequence", "missing", "level"),
        *("cause", "topic_epoch", "kafka_partition", "opened_offset", "reported_offset", "event_day"),
    )
    values = {name: getattr(change, name) for name in names}
    connection.execute(
        insert(gaps).values(
            **values, dataset=attempt.dataset, exchange=attempt.exchange, state="open", commit_id=attempt.id
        )
    )


def _settle(connection: Connection, attempt: Any, change: LedgerChange) -> None:
    filled = gaps.c.filled + change.filled
    quarantined = gaps.c.quarantined + change.quarantined
    span = gaps.c.last_sequence - gaps.c.first_sequence + 1
    explained = (quarantined > 0) & (filled + quarantined >= span)
    connection.execute(
        update(gaps)
        .where(
            gaps.c.dataset == attempt.dataset,
            gaps.c.exchange == attempt.exchange,
            gaps.c.topic_epoch == change.topic_epoch,
            gaps.c.kafka_partition == change.kafka_partition,
            gaps.c.numbering == change.numbering,
            gaps.c.opened_offset == change.opened_offset,
            gaps.c.first_sequence == change.first_sequence,
        )
        .values(
            filled=filled,
            quarantined=quarantined,
            cause=case((explained, "quarantined"), else_="unknown"),
            state=case((filled >= span, "filled"), else_="open"),
            commit_id=attempt.id,
            changed_at=func.now(),
        )
    )
