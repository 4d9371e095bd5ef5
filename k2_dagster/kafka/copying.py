"""The compiled loop that reads librdkafka's messages. It holds addresses of this process, so it cannot be cached on
disk: the first use compiles for about half a second."""

import ctypes
from ctypes import c_int, c_int64, c_size_t, c_void_p
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import carray  # type: ignore[attr-defined]
from numba.core import cgutils, types
from numba.extending import intrinsic

from k2_dagster.kafka.librdkafka import MESSAGE_BYTES, NO_ERROR, WORD_BYTES, WORDS, address, library

_ERR, _PARTITION, _PAYLOAD, _LEN = WORDS["err"], WORDS["partition"], WORDS["payload"], WORDS["len"]
_KEY, _KEY_LEN, _OFFSET = WORDS["key"], WORDS["key_len"], WORDS["offset"]
_MESSAGE_WORDS = MESSAGE_BYTES // WORD_BYTES
_LOW_HALF = np.int64(0xFFFFFFFF)


# Why the loop stopped: behind the last message, or at one that is an event, whose bytes find no room, or that has
# headers (its columns are filled, and it is not destroyed).
ALL, EVENT, NO_ROOM, HEADERS = range(4)


def _type_pointer(_typing: Any, source: Any) -> Any:
    """An integer address as a pointer."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(source), generate


_pointer: Any = intrinsic(_type_pointer)


@cache
def kernel() -> Any:
    """Compiled for the loaded library. Raises ConfigurationError when that is not the one that we know.

    Called with addresses of messages and the columns of a batch, it fills these from `row` on and destroys the
    messages. Returns how many it is done with, the next row, and why it stopped.
    """
    loaded = library()
    timestamp = ctypes.CFUNCTYPE(c_int64, c_size_t, c_size_t)(address(loaded.rd_kafka_message_timestamp))
    headers = ctypes.CFUNCTYPE(c_int, c_size_t, c_size_t)(address(loaded.rd_kafka_message_headers))
    destroy = ctypes.CFUNCTYPE(None, c_size_t)(address(loaded.rd_kafka_message_destroy))
    move = ctypes.CFUNCTYPE(c_void_p, c_size_t, c_size_t, c_size_t)(address(ctypes.memmove))

    @numba.njit(nogil=True)
    def take(  # type: ignore[no-untyped-def]
        messages, row, partition, offset, timestamp_ms,
        key_ends, key_present, key_data, value_ends, value_present, value_data,
    ):  # fmt: skip
        place = np.zeros(1, np.uint64)
        key_base, value_base = key_data.ctypes.data, value_data.ctypes.data
        key_at, value_at = np.int64(key_ends[row]), np.int64(value_ends[row])
        for number in range(len(messages)):
            message = messages[number]
            words = carray(_pointer(message), _MESSAGE_WORDS, np.int64)
            if words[_ERR] & _LOW_HALF != 0:
                return number, row, EVENT
            key_bytes, value_bytes = words[_KEY_LEN], words[_LEN]
            if key_at + key_bytes > len(key_data) or value_at + value_bytes > len(value_data):
                return number, row, NO_ROOM
            partition[row] = words[_PARTITION] & _LOW_HALF
            offset[row] = words[_OFFSET]
            timestamp_ms[row] = timestamp(message, 0)
            key_present[row] = words[_KEY] != 0
            value_present[row] = words[_PAYLOAD] != 0
            move(key_base + key_at, words[_KEY], key_bytes)
            move(value_base + value_at, words[_PAYLOAD], value_bytes)
            key_at += key_bytes
            value_at += value_bytes
            row += 1
            key_ends[row], value_ends[row] = key_at, value_at
            if headers(message, place.ctypes.data) == NO_ERROR:
                return number, row, HEADERS
            destroy(message)
        return len(messages), row, ALL

    return take
