"""What a Kafka reader hands over: messages by the column, at their exact offsets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True)
class RawBatch:
    """Messages of one topic in the order in which they were read: per partition, in the order of their offsets.

    `partition` (int32), `offset` (int64) and `timestamp_ms` (int64, Kafka's record time) have one entry per message,
    as have `keys` and `values` (pa.binary; null where the message has none). `headers` maps the row to its headers, for
    the rows that have some. `positions` maps each assigned partition to the offset to go on from: behind the last
    message, and behind the transaction markers that follow it once the partition's end was seen. Offsets have holes.
    """

    topic: str
    partition: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    timestamp_ms: npt.NDArray[np.int64]
    keys: pa.BinaryArray
    values: pa.BinaryArray
    headers: Mapping[int, Headers] = field(default_factory=dict)
    positions: Mapping[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offset)


class Reader(Protocol):
    """Reads one topic from exact offsets. Not for several threads at once.

    An error stays: after one, every `read` raises it again until `assign` is called.
    """

    def assign(self, topic: str, starts: Mapping[int, int]) -> None:
        """Read these partitions from these offsets. Forgets an earlier assignment.

        Raises KafkaUnavailable, ConfigurationError (Kafka refuses us).
        """
        ...

    def read(self, max_messages: int, timeout_seconds: float, until: Mapping[int, int] | None = None) -> RawBatch:
        """The next messages; perhaps none. Positions may move without a message.

        Returns with `max_messages`, with `BATCH_BYTES` of payload, when the time is over, or early: when the positions
        have reached `until`; where that is not given, as soon as every partition has been read to its end and something
        was read. On a busy topic the latter cuts small batches: give `until`, or pace the calls.

        Raises RetentionOverrun or LogShrunk (the offset to read is no longer, or not any more, in the log), InputLost
        (the topic is gone), ReaderStalled, KafkaUnavailable, ConfigurationError (refused). Messages that were read
        before the error are returned first.
        """
        ...

    def close(self) -> None:
        """Give the connections back. May be called twice."""
        ...


@dataclass(frozen=True)
class Event:
    """What a client says beside messages: librdkafka's error code, place and words."""

    code: int
    partition: int
    offset: int
    text: str


@dataclass(frozen=True)
class Chunk:
    """What one poll of a client gave: messages by the column as in RawBatch, and events."""

    partition: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    timestamp_ms: npt.NDArray[np.int64]
    keys: pa.BinaryArray
    values: pa.BinaryArray
    headers: Mapping[int, Headers]
    events: Sequence[Event]

    def __len__(self) -> int:
        return len(self.offset)


NO_EVENTS: tuple[Event, ...] = ()
NOTHING = Chunk(
    np.empty(0, np.int32),
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    pa.array([], pa.binary()),
    pa.array([], pa.binary()),
    {},
    NO_EVENTS,
)


class Client(Protocol):
    """One librdkafka consumer with an assignment: the part in which the readers differ."""

    def poll(self, max_messages: int, timeout_seconds: float) -> Chunk:
        """Messages and events that are there, waiting for the first at most this long."""
        ...

    def close(self) -> None:
        """End the client and its threads."""
        ...


def join(topic: str, chunks: Sequence[Chunk], positions: Mapping[int, int]) -> RawBatch:
    """One batch of the chunks' messages, in their order."""
    chunks = chunks or [NOTHING]
    headers: dict[int, Headers] = {}
    first_row = 0
    for chunk in chunks:
        headers.update({first_row + row: found for row, found in chunk.headers.items()})
        first_row += len(chunk)
    return RawBatch(
        topic,
        np.concatenate([chunk.partition for chunk in chunks]),
        np.concatenate([chunk.offset for chunk in chunks]),
        np.concatenate([chunk.timestamp_ms for chunk in chunks]),
        pa.concat_arrays([chunk.keys for chunk in chunks]),
        pa.concat_arrays([chunk.values for chunk in chunks]),
        headers,
        positions,
    )
