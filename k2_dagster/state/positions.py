"""Where topics begin: incarnations (epochs), baselines and accepted losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, tuple_, update
from sqlalchemy import insert as plain_insert
from sqlalchemy.dialects.postgresql import insert

from k2_dagster.errors import PartitionCountChanged
from k2_dagster.state.database import Database
from k2_dagster.state.tables import baselines, losses, topics


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
            # Another process may have recorded it meanwhile: what is on record counts, or its rows had two epochs
            found = connection.execute(select(topics).where(topics.c.topic_id == topic_id)).one()
    if found.partitions != partitions:
        raise PartitionCountChanged(
            f"{topic} has {partitions} partitions, it had {found.partitions} when its first message landed",
            advice="the topic was altered: symbols have moved to other partitions, and their order is broken. Move "
            "to a new topic (docs/schemas.md, 'Changing the partition count')",
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


def accept_losses(database: Database, accepted: Sequence[AcceptedLoss], *, begins_epoch: bool) -> None:
    """Put accepted losses of one topic on record. `begins_epoch`: its log shrank, so offsets that have rows will be
    given to other messages, whose rows need another epoch; both are true together or not at all."""
    names = AcceptedLoss.__dataclass_fields__
    with database.begin() as connection:
        for loss in accepted:
            connection.execute(plain_insert(losses), {name: getattr(loss, name) for name in names})
        if begins_epoch:
            _begin_epoch(connection, accepted[0].topic, accepted[0].topic_id)


def read_losses(database: Database, table_name: str, topic_id: str) -> list[dict[str, Any]]:
    """Accepted losses of a table and topic incarnation, oldest first."""
    with database.begin() as connection:
        query = select(losses).where(losses.c.table_name == table_name, losses.c.topic_id == topic_id)
        return [dict(row) for row in connection.execute(query.order_by(losses.c.id)).mappings()]


# (table name, topic id, partition) -> (first lost offset, offset to go on from), in the order of acceptance
PendingLosses = Mapping[tuple[str, str, int], Sequence[tuple[int, int]]]


def pending_losses(database: Database) -> PendingLosses:
    """Accepted losses that no commit has gone behind yet. An applied one must not be applied again: after a log shrank,
    its first offset is reached a second time."""
    query = select(losses).where(losses.c.applied_by.is_(None)).order_by(losses.c.id)
    out: dict[tuple[str, str, int], list[tuple[int, int]]] = {}
    with database.begin() as connection:
        for one in connection.execute(query):
            place = (str(one.table_name), str(one.topic_id), int(one.partition))
            out.setdefault(place, []).append((int(one.first_offset), int(one.next_offset)))
    return out


def behind_losses(accepted: Sequence[tuple[int, int]], offset: int) -> int:
    """Where to go on from `offset`. More may have been lost before anything was read behind the first loss."""
    for first, following in accepted:
        offset = following if first == offset else offset
    return offset


def mark_applied(connection: Connection, table_name: str, commit_id: str, moved: Sequence[tuple[str, int]]) -> None:
    """A commit has moved these (topic id, partition): what was accepted before is behind it."""
    places = tuple_(losses.c.topic_id, losses.c.partition)
    pending = (losses.c.table_name == table_name) & losses.c.applied_by.is_(None)
    connection.execute(update(losses).where(pending, places.in_(moved)).values(applied_by=commit_id))


def _begin_epoch(connection: Connection, topic: str, topic_id: str) -> None:
    newest = connection.execute(select(func.max(topics.c.epoch)).where(topics.c.topic == topic)).scalar_one()
    connection.execute(update(topics).where(topics.c.topic_id == topic_id).values(epoch=newest + 1))


def known_topics(database: Database) -> dict[str, list[str]]:
    """Ids of the incarnations of every known topic, oldest first."""
    out: dict[str, list[str]] = {}
    with database.begin() as connection:
        for topic, topic_id in connection.execute(select(topics.c.topic, topics.c.topic_id).order_by(topics.c.epoch)):
            out.setdefault(str(topic), []).append(str(topic_id))
    return out
