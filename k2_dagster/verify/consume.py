"""The verification's own consumer: one partition at a time, exact offsets, committed messages only."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from k2_dagster.errors import KafkaUnavailable, LogShrunk, ReaderStalled
from k2_dagster.kafka.clients import client_config, translate
from k2_dagster.kafka.topics import watermarks
from k2_dagster.schemas.common import REFUSED_FIRST_HEADER
from k2_dagster.settings import Settings

Int64s = npt.NDArray[np.int64]
# Offsets whose comparison is held in memory at once: 8 bytes each for three sets, and the values that are compared.
CHUNK_OFFSETS = 500_000
# Messages per call: more of them leave the processor's cache before they are looked at.
CONSUME_MESSAGES = 2_000
# Longest wait of one call, which ends early only when it is full: how soon the end of a range is noticed.
POLL_SECONDS = 0.05
# A partition that has messages and delivers none for this long is stuck, or its brokers are away.
SILENCE_SECONDS = 60.0
REQUEST_TIMEOUT_SECONDS = 10.0
# librdkafka waits this long after its queue was full; its default of 1000 ms stalls a fast consumer.
FETCH_QUEUE_BACKOFF_MS = 5
# An empty fetch reports the end of a partition, after this wait.
FETCH_WAIT_MS = 50
MILLISECONDS_PER_SECOND = 1_000

Headers = tuple[tuple[str, bytes | None], ...]
_END = KafkaError._PARTITION_EOF  # noqa: SLF001  (librdkafka's public error codes start with an underscore)
_OUT_OF_RANGE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)  # noqa: SLF001


@dataclass(frozen=True, slots=True)
class Original:
    """A message with everything that quarantine keeps of it."""

    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is kept of a chunk: values where `values` says so, and everything of the messages at `originals`."""

    values: Callable[[Int64s], npt.NDArray[np.bool_]]
    originals: Int64s


@dataclass(slots=True)
class Chunk:
    """The committed messages of offsets [first, following), in rising order.

    Below `retained_from` Kafka has no messages any more. `values` and `originals` have those that were asked for;
    `first_refused` says of every reprocessed message where it was refused first, as its header does.
    """

    first: int
    following: int
    retained_from: int
    offsets: Int64s
    values: dict[int, bytes | None] = field(default_factory=dict)
    originals: dict[int, Original] = field(default_factory=dict)
    first_refused: dict[int, bytes] = field(default_factory=dict)


class TopicReader:
    """Reads one topic. Close it when done."""

    def __init__(self, settings: Settings, topic: str) -> None:
        """Raises KafkaUnavailable, ConfigurationError (refused)."""
        self._settings = settings
        self._topic = topic
        config = {
            **client_config(settings),
            "group.id": "k2-verify",  # required by librdkafka, never used: no subscribe, no commit
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": FETCH_QUEUE_BACKOFF_MS,
            "fetch.wait.max.ms": FETCH_WAIT_MS,
        }
        with _translated("start the verification's consumer"):
            self._consumer = Consumer(config)

    def close(self) -> None:
        """Give the connections back."""
        self._consumer.close()

    def read(self, partition: int, first: int, following: int, wanted: Wanted) -> Chunk:
        """Every committed message of [first, following); `wanted` says what is kept of which.

        Raises KafkaUnavailable, ReaderStalled. Where retention takes messages away meanwhile, `retained_from` says so.
        """
        chunk = Chunk(first, following, first, np.empty(0, dtype=np.int64))
        pieces: list[Int64s] = []
        position = first
        self._assign(partition, position)
        heard = time.monotonic()
        while position < following:
            with _translated(f"read {self._topic}"):
                messages = self._consumer.consume(CONSUME_MESSAGES, POLL_SECONDS)
            before = position
            failed = [one for one in messages if one.error() is not None] if any(map(Message.error, messages)) else []
            if failed:
                messages = [one for one in messages if one.error() is None]
            if messages:
                pieces.append(_take(messages, chunk, wanted))
                position = (messages[-1].offset() or 0) + 1
            for one in failed:
                position = self._after(one, partition, position, chunk)
            if position > before:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE_SECONDS:
                raise self._stalled(partition, position)
        found = np.concatenate([np.empty(0, dtype=np.int64), *pieces])
        chunk.offsets = found[np.searchsorted(found, chunk.retained_from) :]
        return chunk

    def offsets_at(self, partitions: int, when: datetime) -> dict[int, int | None]:
        """Partition -> first retained offset whose record time is at or after `when`; None when there is none."""
        asked = int(when.timestamp() * MILLISECONDS_PER_SECOND)
        places = [TopicPartition(self._topic, number, asked) for number in range(partitions)]
        with _translated(f"look up offsets of {self._topic} by time"):
            found = self._consumer.offsets_for_times(places, timeout=REQUEST_TIMEOUT_SECONDS)
        return {one.partition: None if one.offset < 0 else one.offset for one in found}

    def _assign(self, partition: int, offset: int) -> None:
        with _translated(f"assign {self._topic}"):
            self._consumer.assign([TopicPartition(self._topic, partition, offset)])

    def _after(self, event: Message, partition: int, position: int, chunk: Chunk) -> int:
        """The position after what the client says beside messages; what mends itself leaves it where it was."""
        error = event.error()
        assert error is not None
        if error.code() == _END:
            # The end of what is committed: offsets up to it are markers of transactions, or of aborted ones
            return max(position, event.offset() or 0)
        if error.code() not in _OUT_OF_RANGE:
            if not isinstance(translated := translate(error, f"read {self._topic}"), KafkaUnavailable):
                raise translated
            return position
        earliest, end = watermarks(self._settings, self._topic, partition + 1)[partition]
        if position >= earliest:
            raise LogShrunk(
                f"{self._topic} partition {partition} ends at {end}, and offset {position} was there a moment ago",
                advice="the log lost its tail, or the topic was made anew: verify again",
            )
        chunk.retained_from = min(earliest, chunk.following)
        self._assign(partition, chunk.retained_from)
        return chunk.retained_from

    def _stalled(self, partition: int, position: int) -> ReaderStalled:
        return ReaderStalled(
            f"partition {partition} of {self._topic} delivered nothing from offset {position} for "
            f"{SILENCE_SECONDS:.0f} s, though it has messages there",
            advice="`k2 doctor` tries the brokers",
        )


def _take(messages: list[Message], chunk: Chunk, wanted: Wanted) -> Int64s:
    """Offsets of the messages that belong to the chunk; the wanted ones' values are put into it."""
    offsets = np.fromiter(map(Message.offset, messages), np.int64, len(messages))
    inside = offsets[: int(np.searchsorted(offsets, chunk.following))]
    for at in np.flatnonzero(wanted.values(inside)).tolist():
        chunk.values[int(inside[at])] = messages[at].value()
    for at in np.flatnonzero(np.isin(inside, wanted.originals)).tolist():
        one = messages[at]
        chunk.originals[int(inside[at])] = Original(one.key(), one.value(), _headers(one))
    for at, found in enumerate(map(Message.headers, messages[: len(inside)])):
        first = dict(_headers(messages[at])).get(REFUSED_FIRST_HEADER) if found else None
        if first is not None:
            chunk.first_refused[int(inside[at])] = first
    return inside


def _headers(message: Message) -> Headers:
    """In the order in which they were sent."""
    found = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    return tuple(found)


@contextmanager
def _translated(action: str) -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise translate(error, action) from error
