"""Kafka client on librdkafka's C API: messages go from its queue into Arrow buffers without a Python object each.

The handle is our own; nothing is shared with confluent-kafka's Consumer, whose objects abort the process when their
queue is read behind their back.
"""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaError, KafkaException

from k2_dagster.errors import ConfigurationError
from k2_dagster.kafka.batch import Event, Gathering, Headers
from k2_dagster.kafka.clients import LOGGER, consumer_config, translate
from k2_dagster.kafka.copying import EVENT, HEADERS, NO_ROOM, functions, take
from k2_dagster.kafka.librdkafka import (
    CONF_OK,
    CONSUMER,
    ERROR_TEXT_BYTES,
    NO_ERROR,
    MessageStruct,
    library,
    log_callback,
)
from k2_dagster.settings import Settings

# Messages per call. They are not Python objects, so a chunk may be larger than the plain client's; beyond this nothing
# is gained.
CHUNK_MESSAGES = 10_000


class NativeClient:
    """An own librdkafka consumer with an assignment."""

    def __init__(self, settings: Settings, topic: str, starts: Mapping[int, int]) -> None:
        """Raises KafkaUnavailable, ConfigurationError (refused, or not the librdkafka that we know)."""
        self._library = library()
        self._functions = functions()
        self._pointers = np.zeros(CHUNK_MESSAGES, np.uint64)
        self._handle = self._start(consumer_config(settings))
        self._library.rd_kafka_poll_set_consumer(self._handle)
        self._queue = self._library.rd_kafka_queue_get_consumer(self._handle)
        try:
            self._assign(topic, starts)
        except BaseException:
            self.close()
            raise

    def poll(self, into: Gathering, max_messages: int, timeout_seconds: float) -> Sequence[Event]:
        """See `Client`."""
        count = self._library.rd_kafka_consume_batch_queue(
            self._queue,
            int(timeout_seconds * 1000),
            self._pointers.ctypes.data,
            min(max_messages, CHUNK_MESSAGES),
        )
        return self._take(into, self._pointers[: max(0, count)])

    def close(self) -> None:
        """See `Client`."""
        if self._handle:
            handle, self._handle = self._handle, None
            self._library.rd_kafka_consumer_close(handle)
            self._library.rd_kafka_queue_destroy(self._queue)
            self._library.rd_kafka_destroy(handle)

    def _start(self, config: Mapping[str, Any]) -> Any:
        """A consumer handle. librdkafka takes the configuration over when it succeeds."""
        configuration = self._library.rd_kafka_conf_new()
        text = ctypes.create_string_buffer(ERROR_TEXT_BYTES)
        self._library.rd_kafka_conf_set_log_cb(configuration, log_callback)
        for name, value in config.items():
            if name == LOGGER:
                continue
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            result = self._library.rd_kafka_conf_set(configuration, name.encode(), shown.encode(), text, len(text))
            if result != CONF_OK:
                self._library.rd_kafka_conf_destroy(configuration)
                raise ConfigurationError(
                    f"librdkafka refused {name}: {text.value.decode()}", advice="check the K2_KAFKA_* settings"
                )
        handle = self._library.rd_kafka_new(CONSUMER, configuration, text, len(text))
        if not handle:
            self._library.rd_kafka_conf_destroy(configuration)
            raise ConfigurationError(
                f"librdkafka did not start: {text.value.decode()}", advice="check the K2_KAFKA_* settings"
            )
        return handle

    def _assign(self, topic: str, starts: Mapping[int, int]) -> None:
        places = self._library.rd_kafka_topic_partition_list_new(len(starts))
        for partition, offset in starts.items():
            self._library.rd_kafka_topic_partition_list_add(places, topic.encode(), partition)
            self._library.rd_kafka_topic_partition_list_set_offset(places, topic.encode(), partition, offset)
        code = self._library.rd_kafka_assign(self._handle, places)
        self._library.rd_kafka_topic_partition_list_destroy(places)
        if code != NO_ERROR:
            raise translate(KafkaException(KafkaError(code)), f"assign {topic}")

    def _take(self, into: Gathering, pointers: npt.NDArray[np.uint64]) -> Sequence[Event]:
        """Copy the messages and give them back to librdkafka, but for those that something is left to ask of."""
        events: list[Event] = []
        keys, values = into.keys, into.values
        while len(pointers):
            done, into.rows, why = take(
                *(self._functions, pointers, into.rows, into.partition, into.offset, into.timestamp_ms),
                *(keys.ends, keys.present, keys.data, values.ends, values.present, values.data),
            )
            pointers = pointers[done:]
            if why == EVENT:
                events.append(self._event(int(pointers[0])))
            elif why == HEADERS:
                into.headers[into.rows - 1] = self._headers(int(pointers[0]))
            elif why == NO_ROOM:
                message = MessageStruct.from_address(int(pointers[0]))
                keys.make_room(into.rows, message.key_len)
                values.make_room(into.rows, message.len)
                continue
            if len(pointers):
                self._library.rd_kafka_message_destroy(int(pointers[0]))
                pointers = pointers[1:]
        return events

    def _event(self, message: int) -> Event:
        one = MessageStruct.from_address(message)
        return Event(one.err, one.partition, one.offset, self._library.rd_kafka_err2str(one.err).decode())

    def _headers(self, message: int) -> Headers:
        """All headers of a message that has some."""
        headers, size, value, name = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_void_p(), ctypes.c_char_p()
        self._library.rd_kafka_message_headers(message, ctypes.byref(headers))
        found: Headers = []
        while (
            self._library.rd_kafka_header_get_all(
                headers, len(found), ctypes.byref(name), ctypes.byref(value), ctypes.byref(size)
            )
            == NO_ERROR
        ):
            content = ctypes.string_at(value.value, size.value) if value.value is not None else None
            found.append(((name.value or b"").decode(), content))
        return found
