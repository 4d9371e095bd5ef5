"""Streams that cannot go on: who met what, since when. Written by whoever drives them, read by `k2 status`.

A stream without a row has no trouble that anybody knows of.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import case, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.state.database import Database
from k2_dagster.state.tables import stream_states

Condition = Literal["waiting", "retrying", "halted"]


@dataclass(frozen=True, slots=True)
class StreamState:
    """`waiting` for a schema, `retrying` after a transient error, or `halted` by one that a person has to mend.

    `since` is when this error began, `seen_at` when it was met last, both by the database's clock.
    """

    condition: Condition
    error: str
    message: str
    advice: str
    driver: str
    since: datetime | None = None
    seen_at: datetime | None = None


def record_state(database: Database, exchange: str, dataset: str, state: StreamState) -> None:
    """Put it on record; `since` stays while the error is the same."""
    now = func.clock_timestamp()
    values = {
        "condition": state.condition,
        "error": state.error,
        "message": state.message,
        "advice": state.advice,
        "driver": state.driver,
        "seen_at": now,
    }
    same = (stream_states.c.condition == state.condition) & (stream_states.c.error == state.error)
    fresh = insert(stream_states).values(exchange=exchange, dataset=dataset, since=now, **values)
    kept = case((same, stream_states.c.since), else_=now)
    with database.begin() as connection:
        connection.execute(
            fresh.on_conflict_do_update(index_elements=["exchange", "dataset"], set_={**values, "since": kept})
        )


def clear_state(database: Database, exchange: str, dataset: str) -> None:
    """The stream goes on."""
    with database.begin() as connection:
        connection.execute(
            delete(stream_states).where(stream_states.c.exchange == exchange, stream_states.c.dataset == dataset)
        )


def read_states(database: Database) -> dict[tuple[str, str], StreamState]:
    """Every state on record, by exchange and dataset."""
    names = tuple(StreamState.__dataclass_fields__)
    with database.begin() as connection:
        rows = connection.execute(select(stream_states)).mappings().all()
    return {(row["exchange"], row["dataset"]): StreamState(**{name: row[name] for name in names}) for row in rows}
