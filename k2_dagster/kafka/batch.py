"""What a Kafka reader hands over: messages by the column, at their exact offsets."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
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


NO_EVENTS: tuple[Event, ...] = ()
# What a batch in the making has room for at first, in bytes per message. What is not written costs nothing; room that
# has to be made is memory that the system clears, and a copy.
KEY_ROOM_BYTES, VALUE_ROOM_BYTES = 32, 192
# How many times larger it gets at once: the first messages may be larger than the others.
MOST_GROWTH = 8
# One batch is gathered while another one is judged; what is behind that holds no message any more.
GATHERINGS_KEPT = 2


class Payloads:
    """An Arrow binary array in the making: `ends` (int32, one more than rows, from 0), `present` (bool per row) and
    `data` (uint8, as much as fits in there)."""

    def __init__(self, rows: int, room_bytes: int) -> None:
        self.ends = np.empty(rows + 1, np.int32)
        self.ends[0] = 0
        self.present = np.empty(rows, np.bool_)
        self.data = np.empty(room_bytes, np.uint8)

    def make_room(self, row: int, size_bytes: int) -> None:
        """Room for so many bytes behind the first `row` rows, and for the rest if they are like those."""
        used = int(self.ends[row])
        if used + size_bytes > len(self.data):
            expected = used * len(self.present) // max(1, row)
            room_bytes = min(used * MOST_GROWTH, max(expected, used) * 5 // 4)
            data = np.empty(max(used + size_bytes, room_bytes), np.uint8)
            data[:used] = self.data[:used]
            self.data = data

    def append(self, row: int, values: pa.BinaryArray) -> None:
        """Write an array from row `row` on."""
        offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
        data = np.frombuffer(values.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
        self.make_room(row, len(data))
        at, end = int(self.ends[row]), row + len(values)
        self.data[at : at + len(data)] = data
        self.ends[row + 1 : end + 1] = offsets[1:] + (at - offsets[0])
        self.present[row:end] = values.is_valid().to_numpy(zero_copy_only=False) if values.null_count else True

    def array(self, rows: int) -> pa.BinaryArray:
        """The first `rows` rows, without a copy."""
        present = self.present[:rows]
        validity = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
        buffers = [validity, pa.py_buffer(self.ends[: rows + 1]), pa.py_buffer(self.data[: self.ends[rows]])]
        return pa.Array.from_buffers(pa.binary(), rows, buffers)


class Gathering:
    """A batch in the making: clients write behind its `rows`, and then move that on. At most `max_messages` rows."""

    def __init__(self, max_messages: int) -> None:
        self.rows = 0
        self.partition = np.empty(max_messages, np.int32)
        self.offset = np.empty(max_messages, np.int64)
        self.timestamp_ms = np.empty(max_messages, np.int64)
        self.keys = Payloads(max_messages, max_messages * KEY_ROOM_BYTES)
        self.values = Payloads(max_messages, max_messages * VALUE_ROOM_BYTES)
        self.headers: dict[int, Headers] = {}

    def __len__(self) -> int:
        return self.rows

    @property
    def is_idle(self) -> bool:
        """Whether nobody holds what was gathered here before, so that it may be written over."""
        return self._references() == _idle_references()

    def _references(self) -> int:
        """To its arrays, with those that counting takes."""
        parts = (vars(self), vars(self.keys), vars(self.values))
        arrays = (one for part in parts for one in part.values() if isinstance(one, np.ndarray))
        return sum(sys.getrefcount(one) for one in arrays)

    def clear(self) -> None:
        """Begin again, in the same memory."""
        self.rows = 0
        self.headers = {}

    @property
    def payload_bytes(self) -> int:
        """Keys and values so far."""
        return int(self.keys.ends[self.rows]) + int(self.values.ends[self.rows])

    def batch(self, topic: str, positions: Mapping[int, int]) -> RawBatch:
        """What was gathered, without a copy."""
        rows = self.rows
        return RawBatch(
            topic,
            self.partition[:rows],
            self.offset[:rows],
            self.timestamp_ms[:rows],
            self.keys.array(rows),
            self.values.array(rows),
            self.headers,
            positions,
        )


@cache
def _idle_references() -> int:
    """What is counted where nobody holds anything: how many counting takes differs between versions of Python."""
    return Gathering(1)._references()  # noqa: SLF001  (the same module)


class Gatherings:
    """Memory of batches that nobody holds any more, for the next ones: the system clears what it hands out, which costs
    a backlog a twentieth of its speed. `most_messages` is the most that one is for."""

    def __init__(self, most_messages: int) -> None:
        self._most = most_messages
        self._kept: list[Gathering] = []

    def take(self, max_messages: int) -> Gathering:
        """One that is empty, for so many messages at least."""
        self._most = max(self._most, max_messages)
        for one in self._kept:
            if len(one.offset) >= max_messages and one.is_idle:
                one.clear()
                return one
        made = Gathering(self._most)
        self._kept = [*self._kept[1 - GATHERINGS_KEPT :], made]
        return made

    def clear(self) -> None:
        """Keep nothing."""
        self._kept = []


class Client(Protocol):
    """One librdkafka consumer with an assignment: the part in which the readers differ."""

    def poll(self, into: Gathering, max_messages: int, timeout_seconds: float) -> Sequence[Event]:
        """Append messages that are there, waiting for the first at most this long; returns the events."""
        ...

    def close(self) -> None:
        """End the client and its threads."""
        ...


def partition_runs(partition: npt.NDArray[np.int32]) -> list[tuple[int, int]]:
    """Where each run of messages of one partition begins and ends."""
    begins = np.flatnonzero(np.diff(partition, prepend=-1))
    return list(zip(begins.tolist(), [*begins[1:].tolist(), len(partition)], strict=False))
