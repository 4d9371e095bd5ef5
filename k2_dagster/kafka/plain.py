"""Kafka client on confluent-kafka's Consumer: the default."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaException, Message, TopicPartition

from k2_dagster.kafka.batch import NO_EVENTS, Event, Gathering, Headers, partition_runs
from k2_dagster.kafka.clients import consumer_config, translate
from k2_dagster.settings import Settings

# Messages per call: the objects of a larger chunk leave the processor's cache before they are read (measured: 20,000
# is a third slower), a smaller one pays the call too often.
CHUNK_MESSAGES = 2_000
# Reading a time costs as much as reading a value. Producers' batches under load are larger than this.
TIME_PIECE_MESSAGES = 250


class PlainClient:
    """A Consumer with an assignment. Its Message objects live for one poll."""

    def __init__(self, settings: Settings, topic: str, starts: Mapping[int, int]) -> None:
        """Raises KafkaUnavailable, ConfigurationError (refused)."""
        try:
            self._consumer = Consumer(consumer_config(settings))
            self._consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in starts.items()])
        except KafkaException as error:
            raise translate(error, f"assign {topic}") from error

    def poll(self, into: Gathering, max_messages: int, timeout_seconds: float) -> Sequence[Event]:
        """See `Client`."""
        try:
            messages = self._consumer.consume(min(max_messages, CHUNK_MESSAGES), timeout_seconds)
        except KafkaException as error:
            raise translate(error, "consume") from error
        events: Sequence[Event] = NO_EVENTS
        if any(map(Message.error, messages)):
            events = _events(messages)
            messages = [message for message in messages if not message.error()]
        if messages:
            _append(into, messages)
        return events

    def close(self) -> None:
        """See `Client`."""
        with suppress(RuntimeError):  # closed already
            self._consumer.close()


def _events(messages: list[Message]) -> list[Event]:
    found = ((message, message.error()) for message in messages)
    return [
        Event(error.code(), _known(message.partition()), _known(message.offset()), error.str())
        for message, error in found
        if error is not None
    ]


def _known(place: int | None) -> int:
    """A message of an assigned consumer has a place; an error about the whole client has none."""
    return -1 if place is None else place


def _append(into: Gathering, messages: list[Message]) -> None:
    row, end = into.rows, into.rows + len(messages)
    partition = np.fromiter(map(Message.partition, messages), np.int32, len(messages))
    places = partition_runs(partition)
    into.partition[row:end] = partition
    into.offset[row:end] = _offsets(messages, places)
    into.timestamp_ms[row:end] = _timestamps(messages, places)
    into.keys.append(row, pa.array(list(map(Message.key, messages)), pa.binary()))
    into.values.append(row, pa.array(list(map(Message.value, messages)), pa.binary()))
    headers = list(map(Message.headers, messages))
    if any(headers):
        into.headers |= {row + at: cast(Headers, found) for at, found in enumerate(headers) if found}
    into.rows = end


def _offsets(messages: list[Message], places: list[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """Offsets, read only at the ends of each run where that proves the rest.

    Offsets in a partition rise, so a run whose last minus first is its length minus one has no hole.
    """
    offsets = np.empty(len(messages), np.int64)
    for begin, end in places:
        first, last = _known(messages[begin].offset()), _known(messages[end - 1].offset())
        if last - first == end - 1 - begin:
            offsets[begin:end] = np.arange(first, last + 1)
        else:
            offsets[begin:end] = [_known(message.offset()) for message in messages[begin:end]]
    return offsets


def _timestamps(messages: list[Message], places: list[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """Record times in milliseconds, read only at the ends of a piece where they are equal.

    Where the broker stamps them (LogAppendTime) all messages of a producer's batch have one time, and time in a
    partition does not go back.
    """
    times = np.empty(len(messages), np.int64)
    for run_begin, run_end in places:
        for begin in range(run_begin, run_end, TIME_PIECE_MESSAGES):
            end = min(begin + TIME_PIECE_MESSAGES, run_end)
            kind, first = messages[begin].timestamp()
            if kind == TIMESTAMP_LOG_APPEND_TIME and messages[end - 1].timestamp()[1] == first:
                times[begin:end] = first
            else:
                times[begin:end] = [at for _, at in map(Message.timestamp, messages[begin:end])]
    return times
