"""Intervals in which messages were not taken: a halted partition, deferred symbols. Kafka holds what is in them.

Begun by whoever halts or defers, read by whoever asks what is complete. That messages may be taken again ends no hold:
the first row that is taken does, in the commit that it lands with, by the venue's time of that row. Until one comes the
hold is open, and both ends are times of the venue's like everything else in the ledger.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.state.coverage_tables import holds
from k2_dagster.state.times import from_micros

HoldKind = Literal["halted", "deferred"]


@dataclass(frozen=True, slots=True)
class HoldBegins:
    """A partition of a dataset and exchange is not read from `from_offset` on; `from_time` is the venue's time of what
    came last before it. `commit_id` is the last commit that landed."""

    exchange: str
    dataset: str
    topic_epoch: int
    kafka_partition: int
    kind: HoldKind
    from_offset: int
    from_time: datetime
    reason: str
    commit_id: str


@dataclass(frozen=True, slots=True)
class HoldEnds:
    """The hold that began at `from_offset` is over: the message at `to_offset` became a row, the first behind it.
    `at_micros` is the venue's time of that row; `change` tells it from other changes of the ledger."""

    change: Literal["resume"]
    topic_epoch: int
    kafka_partition: int
    kind: HoldKind
    from_offset: int
    to_offset: int
    at_micros: int


def begin_hold(connection: Connection, hold: HoldBegins) -> None:
    """Put it on record. Again at the same offset, nothing changes."""
    values = {name: getattr(hold, name) for name in HoldBegins.__dataclass_fields__}
    connection.execute(insert(holds).values(**values).on_conflict_do_nothing())


def fold_end(connection: Connection, attempt: Any, change: HoldEnds) -> None:
    """Put the end on record. `attempt` is its row. Again, nothing changes: the first end stays."""
    connection.execute(
        update(holds)
        .where(
            holds.c.exchange == attempt.exchange,
            holds.c.dataset == attempt.dataset,
            holds.c.topic_epoch == change.topic_epoch,
            holds.c.kafka_partition == change.kafka_partition,
            holds.c.kind == change.kind,
            holds.c.from_offset == change.from_offset,
            holds.c.to_offset.is_(None),
        )
        .values(to_offset=change.to_offset, to_time=from_micros(change.at_micros))
    )


def read_holds(connection: Connection, exchange: str, dataset: str) -> list[dict[str, Any]]:
    """Those of a dataset and exchange, oldest first."""
    query = select(holds).where(holds.c.exchange == exchange, holds.c.dataset == dataset).order_by(holds.c.id)
    return [dict(row) for row in connection.execute(query).mappings()]


def open_holds(
    connection: Connection, exchange: str, dataset: str, topic_epoch: int, kind: HoldKind
) -> dict[int, tuple[int, ...]]:
    """By partition, the offsets at which those began that have not ended."""
    query = select(holds.c.kafka_partition, holds.c.from_offset).where(
        holds.c.exchange == exchange,
        holds.c.dataset == dataset,
        holds.c.topic_epoch == topic_epoch,
        holds.c.kind == kind,
        holds.c.to_offset.is_(None),
    )
    out: dict[int, tuple[int, ...]] = {}
    for partition, offset in connection.execute(query.order_by(holds.c.from_offset)):
        out[partition] = (*out.get(partition, ()), offset)
    return out
