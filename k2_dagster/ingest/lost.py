"""What Kafka has lost of a stream, all of it at once: for a look before anybody accepts it, and for `k2 status`.

`resume.py` refuses to go on at the first of these; `losses.py` puts them on record. Nothing is changed here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from k2_dagster.errors import InputLost, NotInitialized, TerminalError
from k2_dagster.lake.fence import Vector, position_key
from k2_dagster.state.database import Database
from k2_dagster.state.positions import behind_losses, pending_losses, read_baselines, read_losses

Cause = Literal["retention_overrun", "topic_recreated", "log_shrunk"]
# Partition -> (earliest retained offset, offset after the last committed message)
Marks = Mapping[int, tuple[int, int]]


@dataclass(frozen=True, slots=True, order=True)
class Lost:
    """Offsets [first_offset, next_offset) that are in no table and not in Kafka any more.

    Of a log that shrank, `next_offset` is where it ends now, before `first_offset`. Of a topic that was made anew, both
    are where the old one (`topic_id`) was left; what it held beyond is not known.
    """

    cause: Cause
    topic: str
    topic_id: str
    partition: int
    first_offset: int
    next_offset: int

    def __str__(self) -> str:
        place = f"{self.topic} partition {self.partition}"
        if self.cause == "retention_overrun":
            return f"{place}: offsets {self.first_offset} to {self.next_offset - 1} are no longer in Kafka"
        if self.cause == "log_shrunk":
            return f"{place} ends at {self.next_offset}, and was read up to {self.first_offset}"
        return f"{place}: the topic was made anew; the old one was read up to {self.first_offset}"


def find_lost(
    database: Database,
    table: str,
    topic: str,
    topic_id: str,
    incarnations: Sequence[str],
    vector: Vector,
    marks: Marks,
) -> list[Lost]:
    """What a stream has lost and nobody has accepted yet, by partition; empty when it can go on.

    `incarnations` are the known ids of the topic, `topic_id` is the one that it has now. Raises DatabaseUnavailable.
    """
    if topic_id not in incarnations:
        left = {one: _begun(database, table, one, vector) for one in incarnations}
        older = [one for one, begun in left.items() if begun and not _is_accepted(database, table, one)]
        if older:
            return sorted(
                Lost("topic_recreated", topic, one, partition, at, at)
                for one in older
                for partition, at in left[one].items()
            )
    starts = _partitions(topic_id, vector)
    if all(earliest <= starts.get(partition, -1) <= end for partition, (earliest, end) in marks.items()):
        return []
    starts, accepted = _begun(database, table, topic_id, vector), pending_losses(database)
    lost = []
    for partition, (earliest, end) in sorted(marks.items()):
        start = behind_losses(accepted.get((table, topic_id, partition), ()), starts.get(partition, earliest))
        if start < earliest:
            lost.append(Lost("retention_overrun", topic, topic_id, partition, start, earliest))
        elif start > end:
            lost.append(Lost("log_shrunk", topic, topic_id, partition, start, end))
    return lost


def topic_is_gone(topic: str, table: str, incarnations: Iterable[str], vector: Vector) -> TerminalError:
    """The error for a topic that does not exist: never made, or deleted after messages of it had landed."""
    ends = {f"partition {number}": at for one in incarnations for number, at in _partitions(one, vector).items()}
    if not ends:
        return NotInitialized(f"topic {topic} does not exist", advice="run `k2 init`")
    shown = ", ".join(f"{partition} offset {at}" for partition, at in sorted(ends.items()))
    return InputLost(
        f"topic {topic} does not exist any more; {table} holds it up to {shown}",
        advice="rows that landed stay. If it was deleted on purpose, `k2 init` makes it anew, and `k2 ingest "
        "accept-loss` puts on record who goes on with the new one",
        topic=topic,
        ends=ends,
    )


def _partitions(topic_id: str, vector: Vector) -> dict[int, int]:
    prefix = position_key(topic_id, 0).removesuffix("0")
    return {int(key.removeprefix(prefix)): at for key, at in vector.items() if key.startswith(prefix)}


def _begun(database: Database, table: str, topic_id: str, vector: Vector) -> dict[int, int]:
    """Where each partition was left; one that was looked at and from which nothing has landed has a baseline only."""
    return {**read_baselines(database, table, topic_id), **_partitions(topic_id, vector)}


def _is_accepted(database: Database, table: str, topic_id: str) -> bool:
    return any(loss["cause"] == "topic_recreated" for loss in read_losses(database, table, topic_id))
