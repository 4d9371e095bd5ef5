"""Where topics begin: incarnations (epochs), baselines and accepted losses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy import insert as plain_insert
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.errors import PartitionCountChanged
from k2_dagster.state.database import Database
from k2_dagster.state.tables import baselines, commits, losses, topics


@dataclass(frozen=True, slots=True)
class AcceptedLoss:
    """A range [first_offset, next_offset) that Kafka lost before it landed, and who accepted that."""

    table_name: str
    topic: str
    topic_id: str
    partition: int
    first_offset: int
    next_offset: int
    cause: str
    accepted_by: str
    reason: str


def topic_epoch(database: Database, topic: str, topic_id: str, partitions: int) -> int:
    """The epoch of this incarnation of the topic, recorded at first sight (0, 1, ...).

    Raises PartitionCountChanged when the same incarnation had another partition count before: keys would map to other
    partitions, and the order per symbol would be lost.
    """
    with database.begin() as connection:
        found = connection.execute(select(topics).where(topics.c.topic_id == topic_id)).one_or_none()
        if found is None:
            newest = connection.execute(select(func.max(topics.c.epoch)).where(topics.c.topic == topic)).scalar()
            epoch = 0 if newest is None else newest + 1
            row = {"topic_id": topic_id, "topic": topic, "epoch": epoch, "partitions": partitions}
            connection.execute(insert(topics).values(**row).on_conflict_do_nothing())
            return int(epoch)
    if found.partitions != partitions:
        raise PartitionCountChanged(
            f"{topic} has {partitions} partitions, it had {found.partitions} when its first message landed",
            advice="symbols would move to other partitions; docs/schemas.md, 'Changing the partition count'",
            topic=topic,
        )
    return int(found.epoch)


def known_incarnations(database: Database, topic: str) -> list[str]:
    """Ids of the topic's incarnations, oldest first."""
    with database.begin() as connection:
        query = select(topics.c.topic_id).where(topics.c.topic == topic).order_by(topics.c.epoch)
        return [str(one) for one in connection.execute(query).scalars()]


def record_baselines(
    database: Database, table_name: str, topic_id: str, firsts: Mapping[int, int], reason: str
) -> None:
    """Record where the table's history of each partition begins. The first record stays."""
    rows = [
        {
            "table_name": table_name,
            "topic_id": topic_id,
            "partition": partition,
            "first_offset": offset,
            "reason": reason,
        }
        for partition, offset in firsts.items()
    ]
    if rows:
        with database.begin() as connection:
            connection.execute(insert(baselines).values(rows).on_conflict_do_nothing())


def read_baselines(database: Database, table_name: str, topic_id: str) -> dict[int, int]:
    """Partition -> first offset that the table's history covers."""
    with database.begin() as connection:
        query = select(baselines.c.partition, baselines.c.first_offset).where(
            baselines.c.table_name == table_name, baselines.c.topic_id == topic_id
        )
        return {row.partition: row.first_offset for row in connection.execute(query)}


def accept_loss(database: Database, loss: AcceptedLoss) -> None:
    """Put an accepted loss on record."""
    names = AcceptedLoss.__dataclass_fields__
    with database.begin() as connection:
        connection.execute(plain_insert(losses), {name: getattr(loss, name) for name in names})


def read_losses(database: Database, table_name: str, topic_id: str) -> list[dict[str, Any]]:
    """Accepted losses of a table and topic incarnation, oldest first."""
    with database.begin() as connection:
        query = select(losses).where(losses.c.table_name == table_name, losses.c.topic_id == topic_id)
        return [dict(row) for row in connection.execute(query.order_by(losses.c.id)).mappings()]


def pending_losses(database: Database, table_name: str, topic_id: str) -> dict[tuple[int, int], int]:
    """Accepted losses that no commit has gone behind yet: (partition, first offset) -> offset to go on from.

    An applied one must not be applied again: after a log shrank, its first offset is reached a second time.
    """
    out = {}
    for loss in read_losses(database, table_name, topic_id):
        behind = [{"topic_id": topic_id, "partition": loss["partition"], "start": loss["next_offset"]}]
        query = select(commits.c.id).where(
            commits.c.table_name == table_name,
            commits.c.ranges.contains(behind),
            commits.c.settled_at > loss["accepted_at"],
        )
        with database.begin() as connection:
            applied = connection.execute(query.limit(1)).one_or_none() is not None
        if not applied:
            out[loss["partition"], loss["first_offset"]] = int(loss["next_offset"])
    return out


def begin_epoch(database: Database, topic: str, topic_id: str) -> int:
    """A new epoch for the same topic: its log shrank, so offsets that have rows will be given to other messages."""
    with database.begin() as connection:
        newest = connection.execute(select(func.max(topics.c.epoch)).where(topics.c.topic == topic)).scalar_one()
        connection.execute(update(topics).where(topics.c.topic_id == topic_id).values(epoch=newest + 1))
    return int(newest) + 1
