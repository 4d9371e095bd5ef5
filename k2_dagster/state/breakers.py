"""Breakers: partitions that are not read on since a critical gap, until somebody says that they may be (DESIGN D18).

A breaker is proposed in the attempt of the commit that ends at its gap, and true once that has landed. The
acknowledgement is keyed by position, so whoever reads the same messages again passes there too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.errors import ConfigurationError
from k2_dagster.schemas.topics import topic_name
from k2_dagster.state.coverage_tables import breakers
from k2_dagster.state.database import Database
from k2_dagster.state.holds import HoldBegins, begin_hold, open_holds
from k2_dagster.state.tables import topics

MICROS_PER_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class BreakerOpens:
    """A partition halts behind `kafka_offset`, whose message showed that numbers of a symbol are missing. `at_micros`
    is the venue's time behind them; `change` tells it from other changes of the ledger."""

    change: Literal["halt"]
    numbering: str
    stream: str
    kind: str
    session: str
    symbol: str
    first_sequence: int
    last_sequence: int
    missing: int
    topic_epoch: int
    kafka_partition: int
    kafka_offset: int
    at_micros: int


@dataclass(frozen=True, slots=True)
class Breakers:
    """Those of one topic incarnation: partitions that are halted, and what somebody has acknowledged, as offsets
    first..through by partition. `resuming` has, of partitions that are read on, the offsets at which holds began that
    no row has ended yet."""

    halted: frozenset[int]
    acknowledged: Mapping[int, tuple[tuple[int, int], ...]]
    resuming: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def passes(self, partition: int, offset: int) -> bool:
        """Whether a critical gap that the message at this offset shows was acknowledged."""
        return any(first <= offset <= through for first, through in self.acknowledged.get(partition, ()))


NO_BREAKERS = Breakers(frozenset(), {})


def fold_breaker(connection: Connection, attempt: Any, change: BreakerOpens) -> None:
    """Put it on record, with the interval that is not taken. `attempt` is its row. Again, nothing changes."""
    values = {name: getattr(change, name) for name in BreakerOpens.__dataclass_fields__ if name != "change"}
    at = datetime.fromtimestamp(values.pop("at_micros") / MICROS_PER_SECOND, UTC)
    stream = {"exchange": attempt.exchange, "dataset": attempt.dataset, "commit_id": attempt.id}
    connection.execute(insert(breakers).values(**values, **stream, event_time=at).on_conflict_do_nothing())
    hold = HoldBegins(
        exchange=attempt.exchange,
        dataset=attempt.dataset,
        topic_epoch=change.topic_epoch,
        kafka_partition=change.kafka_partition,
        kind="halted",
        from_offset=change.kafka_offset + 1,
        from_time=at,
        reason=f"{change.missing} numbers of {change.symbol} are missing: {change.first_sequence} to "
        f"{change.last_sequence}",
        commit_id=attempt.id,
    )
    begin_hold(connection, hold)


def read_breakers(database: Database, exchange: str, dataset: str, topic_epoch: int) -> Breakers:
    """What a stream must know. Raises DatabaseUnavailable, NotInitialized."""
    query = select(breakers).where(
        breakers.c.exchange == exchange, breakers.c.dataset == dataset, breakers.c.topic_epoch == topic_epoch
    )
    halted: set[int] = set()
    acknowledged: dict[int, tuple[tuple[int, int], ...]] = {}
    with database.begin() as connection:
        for row in connection.execute(query.order_by(breakers.c.id)):
            if row.acknowledged_at is None:
                halted.add(row.kafka_partition)
                continue
            passed = (row.kafka_offset, row.through_offset)
            acknowledged[row.kafka_partition] = (*acknowledged.get(row.kafka_partition, ()), passed)
        held = open_holds(connection, exchange, dataset, topic_epoch, "halted")
    resuming = {partition: offsets for partition, offsets in held.items() if partition not in halted}
    return Breakers(frozenset(halted), acknowledged, resuming)


def halted_partitions(database: Database) -> dict[tuple[str, str], frozenset[int]]:
    """(topic, topic id) -> the partitions that are halted, of every topic that has some."""
    query = select(breakers.c.exchange, breakers.c.dataset, breakers.c.topic_epoch, breakers.c.kafka_partition).where(
        breakers.c.acknowledged_at.is_(None)
    )
    out: dict[tuple[str, str], frozenset[int]] = {}
    with database.begin() as connection:
        found = connection.execute(query).all()
        ids = {(row.topic, row.epoch): row.topic_id for row in connection.execute(select(topics))} if found else {}
    for exchange, dataset, epoch, partition in found:
        topic = topic_name(dataset, exchange)
        place = (topic, str(ids[topic, epoch]))
        out[place] = out.get(place, frozenset()) | {partition}
    return out


def list_breakers(
    database: Database, exchange: str | None = None, dataset: str | None = None, *, only_open: bool = False
) -> list[dict[str, Any]]:
    """Breakers as rows, oldest first. Raises DatabaseUnavailable, NotInitialized."""
    query = select(breakers).order_by(breakers.c.id)
    if exchange is not None:
        query = query.where(breakers.c.exchange == exchange)
    if dataset is not None:
        query = query.where(breakers.c.dataset == dataset)
    if only_open:
        query = query.where(breakers.c.acknowledged_at.is_(None))
    with database.begin() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def find_breaker(database: Database, breaker_id: int) -> dict[str, Any]:
    """Raises ConfigurationError (no such breaker), DatabaseUnavailable, NotInitialized."""
    with database.begin() as connection:
        row = connection.execute(select(breakers).where(breakers.c.id == breaker_id)).mappings().one_or_none()
    if row is None:
        raise ConfigurationError(f"breaker was {breaker_id}", advice="valid: an id of `k2 breaker list`")
    return dict(row)


def acknowledge_breaker(
    database: Database, breaker_id: int, *, acknowledged_by: str, reason: str, through_offset: int | None = None
) -> dict[str, Any]:
    """Let the partition be read on; returns the breaker. `through_offset`: critical gaps that messages up to there show
    are acknowledged with it. The first acknowledgement stays. The hold lasts until the first row behind it lands.

    Raises ConfigurationError (no such breaker), DatabaseUnavailable.
    """
    row = find_breaker(database, breaker_id)
    with database.begin() as connection:
        said = {"acknowledged_by": acknowledged_by, "acknowledged_reason": reason}
        through = max(int(row["kafka_offset"]), through_offset or 0)
        changed = (
            update(breakers)
            .where(breakers.c.id == breaker_id, breakers.c.acknowledged_at.is_(None))
            .values(**said, acknowledged_at=func.now(), through_offset=through)
        )
        connection.execute(changed)
    return find_breaker(database, breaker_id)
