"""What is on record of feeds beside gaps: sessions that began after others, and connections."""

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.state.coverage_tables import connections, resets
from k2_dagster.state.times import from_micros


@dataclass(frozen=True, slots=True)
class SessionBegan:
    """A session of a stream, or of a channel where `numbering` is channel. `previous_session` is None where only the
    ledger knows which one was before: of sessions that a feed handler names."""

    numbering: str
    stream: str
    channel: str
    session: str
    previous_session: str | None
    first_sequence: int | None
    topic_epoch: int
    kafka_partition: int
    kafka_offset: int
    at_micros: int
    change: Literal["session"] = "session"


@dataclass(frozen=True, slots=True)
class ConnectionChanged:
    """A feed's connection to its venue was made or lost."""

    stream: str
    state: str
    reason: str
    topic_epoch: int
    kafka_partition: int
    kafka_offset: int
    at_micros: int
    change: Literal["connection"] = "connection"


def fold_session(connection: Connection, attempt: Any, began: SessionBegan) -> None:
    """Put it on record with the session before; the very first has none, and is no reset. `attempt` is its row."""
    of = (
        (resets.c.exchange == attempt.exchange)
        & (resets.c.dataset == attempt.dataset)
        & (resets.c.numbering == began.numbering)
        & (resets.c.stream == began.stream)
        & (resets.c.channel == began.channel)
    )
    before = began.previous_session
    if before is None:
        newest = select(resets.c.session).where(of).order_by(resets.c.id.desc()).limit(1)
        before = connection.execute(newest).scalar()
    names = (
        *("numbering", "stream", "channel", "session", "first_sequence"),
        *("topic_epoch", "kafka_partition", "kafka_offset"),
    )
    values = {name: getattr(began, name) for name in names}
    connection.execute(
        insert(resets)
        .values(
            **values,
            dataset=attempt.dataset,
            exchange=attempt.exchange,
            previous_session=before,
            at=from_micros(began.at_micros),
            commit_id=attempt.id,
        )
        .on_conflict_do_nothing()
    )


def fold_connection(connection: Connection, attempt: Any, changed: ConnectionChanged) -> None:
    """Put it on record. `attempt` is its row."""
    names = ("stream", "state", "reason", "topic_epoch", "kafka_partition", "kafka_offset")
    values = {name: getattr(changed, name) for name in names}
    at = from_micros(changed.at_micros)
    connection.execute(
        insert(connections)
        .values(**values, exchange=attempt.exchange, at=at, commit_id=attempt.id)
        .on_conflict_do_nothing()
    )
