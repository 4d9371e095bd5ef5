"""Intervals in which messages were not taken: a halted partition, deferred symbols. Kafka holds what is in them.

Written by whoever halts or defers, read by whoever asks what is complete.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.state.coverage_tables import holds

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


def begin_hold(connection: Connection, hold: HoldBegins) -> None:
    """Put it on record. Again at the same offset, nothing changes."""
    values = {name: getattr(hold, name) for name in HoldBegins.__dataclass_fields__}
    connection.execute(insert(holds).values(**values).on_conflict_do_nothing())


def end_holds(
    connection: Connection, exchange: str, dataset: str, partition: int, kind: HoldKind, offset: int, time: datetime
) -> int:
    """Everything held in the partition is taken up to `offset` (exclusive) and the venue's `time`; returns how many
    holds that ended."""
    ended = connection.execute(
        update(holds)
        .where(
            holds.c.exchange == exchange,
            holds.c.dataset == dataset,
            holds.c.kafka_partition == partition,
            holds.c.kind == kind,
            holds.c.to_offset.is_(None),
        )
        .values(to_offset=offset, to_time=time)
    )
    return int(ended.rowcount)


def read_holds(connection: Connection, exchange: str, dataset: str) -> list[dict[str, Any]]:
    """Those of a dataset and exchange, oldest first."""
    query = select(holds).where(holds.c.exchange == exchange, holds.c.dataset == dataset).order_by(holds.c.id)
    return [dict(row) for row in connection.execute(query).mappings()]
