"""The gap ledger: numbers that did not come within their grace, what was tried, and how each ended.

Changes come with attempts (see ledger.py). Requests, expiry and acceptance are written by whoever decides them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Literal

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.state.coverage_tables import gap_events
from k2_dagster.state.database import Database
from k2_dagster.state.gap_states import MISSING_STATES, GapEvent, GapState, next_state
from k2_dagster.state.tables import gaps
from k2_dagster.state.times import from_micros


@dataclass(frozen=True, slots=True)
class LedgerChange:
    """One change: `report` opens a gap row; `settle` says that `filled` of its numbers came late, and how many more
    (or, where those came late, fewer) of them are in quarantine.

    The numbers lie between messages of the venue's times `before_micros` and `after_micros`; `seen_ms` is Kafka's time
    of the message that reported them. None where that is not known.
    """

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
    channel: str = ""
    before_micros: int | None = None
    after_micros: int | None = None
    seen_ms: int | None = None


@dataclass(frozen=True, slots=True)
class GapFilter:
    """Which gaps; None is any. `day` is the UTC event day, YYYY-MM-DD. Those that lie wholly before `since`, or after
    `until`, by the venue's times, are left out."""

    exchange: str | None = None
    dataset: str | None = None
    stream: str | None = None
    symbol: str | None = None
    state: str | None = None
    level: str | None = None
    day: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def fold_gaps(connection: Connection, attempt: Any, changes: Sequence[LedgerChange]) -> None:
    """Apply the changes in their order. `attempt` is its row (dataset, exchange, id)."""
    for kind, run in groupby(changes, key=lambda one: one.change):
        if kind == "report":
            connection.execute(insert(gaps), [_reported(attempt, one) for one in run])
        else:
            for one in run:
                _settle(connection, attempt, one)


def open_gaps(database: Database, dataset: str, exchange: str, day: str | None = None) -> list[dict[str, Any]]:
    """Gaps of a dataset and exchange (of one UTC day, as YYYY-MM-DD), oldest first, whatever their state."""
    with database.begin() as connection:
        return read_gaps(connection, GapFilter(exchange=exchange, dataset=dataset, day=day))


def read_gaps(connection: Connection, wanted: GapFilter, newest: int | None = None) -> list[dict[str, Any]]:
    """The gaps, oldest first; with `newest`, so many of the newest."""
    query = select(gaps)
    for name in ("exchange", "dataset", "stream", "symbol", "state", "level"):
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(gaps.c[name] == value)
    if wanted.day is not None:
        query = query.where(gaps.c.event_day == wanted.day)
    # a time that is not known may be any, and the venue's clock may go back between two messages
    earliest, latest = func.least(gaps.c.from_time, gaps.c.to_time), func.greatest(gaps.c.from_time, gaps.c.to_time)
    if wanted.since is not None:
        query = query.where(gaps.c.to_time.is_(None) | (latest >= wanted.since))
    if wanted.until is not None:
        query = query.where(gaps.c.from_time.is_(None) | (earliest < wanted.until))
    query = query.order_by(gaps.c.id) if newest is None else query.order_by(gaps.c.id.desc()).limit(newest)
    found = [dict(row) for row in connection.execute(query).mappings()]
    return found if newest is None else found[::-1]


def read_gap(connection: Connection, gap_id: int) -> dict[str, Any] | None:
    """One gap, with `events`: what was tried and decided, oldest first."""
    row = connection.execute(select(gaps).where(gaps.c.id == gap_id)).mappings().one_or_none()
    if row is None:
        return None
    events = select(gap_events).where(gap_events.c.gap_id == gap_id).order_by(gap_events.c.id)
    return {**row, "events": [dict(one) for one in connection.execute(events).mappings()]}


def record_event(
    connection: Connection,
    gap_id: int,
    event: GapEvent,
    *,
    by: str,
    note: str,
    attempt: int | None = None,
    due: datetime | None = None,
) -> GapState | None:
    """Put on record what was tried for the numbers, or decided about them, by whom and why. `attempt` says which
    attempt it belongs to (the same event of one attempt is recorded once); until `due` the venue is left alone.

    Returns the state after it, which stays where the event says nothing to it; None when there is no such gap.
    """
    query = select(gaps.c.state).where(gaps.c.id == gap_id).with_for_update()
    state: GapState | None = connection.execute(query).scalar_one_or_none()
    if state is None:
        return None
    fresh = insert(gap_events).values(gap_id=gap_id, event=event, by=by, note=note, attempt=attempt, due=due)
    recorded = connection.execute(fresh.on_conflict_do_nothing().returning(gap_events.c.id)).scalar_one_or_none()
    if recorded is None:
        return state
    after = next_state(state, event)
    if after != state:
        connection.execute(update(gaps).where(gaps.c.id == gap_id).values(state=after, changed_at=func.now()))
    return after


def count_missing(database: Database) -> dict[tuple[str, str], int]:
    """Gaps whose numbers are missing, by exchange and dataset."""
    query = (
        select(gaps.c.exchange, gaps.c.dataset, func.count())
        .where(gaps.c.state.in_(MISSING_STATES))
        .group_by(gaps.c.exchange, gaps.c.dataset)
    )
    with database.begin() as connection:
        return {(exchange, dataset): count for exchange, dataset, count in connection.execute(query)}


def _reported(attempt: Any, change: LedgerChange) -> dict[str, Any]:
    names = (
        *("stream", "kind", "session", "symbol", "numbering", "first_sequence", "last_sequence", "missing", "level"),
        *("cause", "topic_epoch", "kafka_partition", "opened_offset", "reported_offset", "event_day", "channel"),
    )
    return {
        **{name: getattr(change, name) for name in names},
        "dataset": attempt.dataset,
        "exchange": attempt.exchange,
        "state": "open",
        "from_time": from_micros(change.before_micros),
        "to_time": from_micros(change.after_micros),
        "seen_at": from_micros(None if change.seen_ms is None else change.seen_ms * 1_000),
        "commit_id": attempt.id,
    }


def _settle(connection: Connection, attempt: Any, change: LedgerChange) -> None:
    which = (
        (gaps.c.dataset == attempt.dataset)
        & (gaps.c.exchange == attempt.exchange)
        & (gaps.c.topic_epoch == change.topic_epoch)
        & (gaps.c.kafka_partition == change.kafka_partition)
        & (gaps.c.numbering == change.numbering)
        & (gaps.c.opened_offset == change.opened_offset)
        & (gaps.c.first_sequence == change.first_sequence)
    )
    # somebody may be asking for its numbers, or accepting that they are missing
    gap = connection.execute(select(gaps).where(which).with_for_update()).one_or_none()
    if gap is None:
        return
    filled, quarantined = gap.filled + change.filled, gap.quarantined + change.quarantined
    span = gap.last_sequence - gap.first_sequence + 1
    explained = quarantined > 0 and filled + quarantined >= span
    connection.execute(
        update(gaps)
        .where(gaps.c.id == gap.id)
        .values(
            filled=filled,
            quarantined=quarantined,
            cause="quarantined" if explained else "unknown",
            state=next_state(gap.state, "fill") if filled >= span else gap.state,
            commit_id=attempt.id,
            changed_at=func.now(),
        )
    )
