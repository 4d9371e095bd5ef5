"""`k2 quarantine reprocess`: the original bytes go through the front door again (DESIGN D12, D20).

The messages are republished to the same topic with the same key, with the header `k2-origin: reprocessed` and the
position that they were refused at. They fill the holes that they left. Running it twice, or being killed half-way,
only republishes: whatever has landed by then is a duplicate the second time.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from confluent_kafka import KafkaException, Message, Producer
from pyiceberg.catalog import Catalog

from k2_dagster.errors import DeliveryFailed, NotInitialized
from k2_dagster.ingest.returned import Original
from k2_dagster.ingest.selection import Int64s, Place, Quarantine, Selection
from k2_dagster.kafka.clients import producer_config, translate, translated
from k2_dagster.kafka.topics import describe
from k2_dagster.schemas.common import ORIGIN_HEADER, REFUSED_AT_HEADER, REFUSED_FIRST_HEADER
from k2_dagster.settings import Settings

# A duplicate has landed already, a number beyond the horizon is refused again, and input that a feed handler could not
# read is no message yet (play the capture again when its format is mended): republishing helps none of them.
NEVER_REPUBLISHED = ("duplicate", "identity_horizon", "refused_by_feed")
# Messages whose bytes are in memory at once.
WINDOW_MESSAGES = 2_000
FLUSH_TIMEOUT_SECONDS = 120.0
POLL_SECONDS = 0.1
_OURS = (ORIGIN_HEADER, REFUSED_AT_HEADER, REFUSED_FIRST_HEADER)


def _unseen(sent: int, total: int) -> None:
    """Progress that nobody watches."""


def republish(
    settings: Settings, catalog: Catalog, selection: Selection, progress: Callable[[int, int], None] = _unseen
) -> int:
    """Republish the selected messages, in the order of each partition. Returns how many.

    Only their positions are in memory at once; `progress` is told how many of them have been taken. Raises
    NotInitialized (a topic is gone) and DeliveryFailed unless every one was taken: run it again then.
    """
    quarantine = Quarantine(catalog, selection)
    waiting = _positions(quarantine)
    partitions = _partitions(settings, {place.topic for place in waiting})
    sender = _Sender(settings, partitions)
    total = sum(map(len, waiting.values()))
    for place, offsets in sorted(waiting.items()):
        for first in range(0, len(offsets), WINDOW_MESSAGES):
            for row in quarantine.at(place, offsets[first : first + WINDOW_MESSAGES]):
                sender.send(row)
            sender.flush()
            progress(sender.sent, total)
    return sender.sent


class _Sender:
    """A producer with what it could not deliver."""

    def __init__(self, settings: Settings, partitions: Mapping[str, int]) -> None:
        with translated("start a producer"):
            self._producer = Producer(producer_config(settings))
        self._partitions = partitions
        self._failures: list[str] = []
        self.sent = 0

    def send(self, row: dict[str, Any]) -> None:
        _produce(self._producer, row, self._partitions[row["topic"]], self._delivered)
        self.sent += 1

    def flush(self) -> None:
        """Wait until everything was taken. Raises DeliveryFailed."""
        left = self._producer.flush(FLUSH_TIMEOUT_SECONDS)
        if left or self._failures:
            raise DeliveryFailed(
                f"{left + len(self._failures)} of {self.sent} messages were not taken: {'; '.join(self._failures[:3])}",
                advice="run it again: what has landed becomes a duplicate",
            )

    def _delivered(self, error: Any, message: Message) -> None:
        if error is not None:
            self._failures.append(f"{message.topic()}: {error}")


def _positions(quarantine: Quarantine) -> dict[Place, Int64s]:
    """Rising offsets of what goes out, by partition: of a message that was refused several times, the newest copy."""
    found: dict[Place, list[int]] = {}
    superseded: dict[Place, set[int]] = {}
    for batch in quarantine.scan(("topic", "topic_epoch", "kafka_partition", "kafka_offset", "reason", "headers")):
        for row in batch.to_pylist():
            if row["reason"] in NEVER_REPUBLISHED:
                continue
            place = Place(row["topic"], row["topic_epoch"], row["kafka_partition"])
            found.setdefault(place, []).append(row["kafka_offset"])
            for original in _refused_at(row):
                before = Place(row["topic"], original.topic_epoch, original.partition)
                superseded.setdefault(before, set()).add(original.offset)
    out = {place: np.setdiff1d(offsets, list(superseded.get(place, ()))) for place, offsets in found.items()}
    return {place: offsets.astype(np.int64) for place, offsets in out.items() if len(offsets)}


def _partitions(settings: Settings, topics: set[str]) -> dict[str, int]:
    """Partition counts. Raises NotInitialized for a topic that is gone."""
    found = describe(settings, sorted(topics))
    for topic in topics - set(found):
        raise NotInitialized(
            f"topic {topic} does not exist: its messages cannot go there again", advice="run `k2 init`"
        )
    return {topic: state.partitions for topic, state in found.items()}


def _produce(producer: Producer, row: dict[str, Any], partitions: int, delivered: Any) -> None:
    """To the partition that refused it, whatever its key: there its number is known, or where it was refused."""
    given = [(one["name"], one["value"]) for one in row["headers"] or []]
    position = Original(row["topic_epoch"], row["kafka_partition"], row["kafka_offset"]).header()
    headers = [(name, value) for name, value in given if name not in _OURS]
    headers += [
        (ORIGIN_HEADER, b"reprocessed"),
        (REFUSED_AT_HEADER, position),
        (REFUSED_FIRST_HEADER, dict(given).get(REFUSED_FIRST_HEADER) or position),
    ]
    # a topic with other partitions is another one: its keys go where its partitioner says
    same = row["kafka_partition"] < partitions
    place = {"partition": row["kafka_partition"]} if same else {}
    while True:
        try:
            producer.produce(row["topic"], row["value"], row["key"], headers=headers, on_delivery=delivered, **place)
            return
        except BufferError:
            producer.poll(POLL_SECONDS)
        except KafkaException as error:
            raise translate(error, f"republish to {row['topic']}") from error


def _refused_at(row: dict[str, Any]) -> Iterator[Original]:
    for header in row["headers"] or []:
        if header["name"] == REFUSED_AT_HEADER and header["value"]:
            original = Original.parse(header["value"])
            if original is not None:
                yield original
