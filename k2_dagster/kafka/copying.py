"""Compiled loops that read librdkafka's messages. They hold addresses of this process, so they cannot be cached on
disk: the first use compiles for about half a second."""

import ctypes
from ctypes import c_int, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Kernels:
    """`measure` reads everything but the bytes of a chunk of messages and returns how many of them are data (an event
    is an error or an end of partition); `copy` then copies the bytes and destroys all messages of the chunk."""

    measure: Any
    copy: Any


def _type_pointer(_typing: Any, source: Any) -> Any:
    """An integer address as a pointer."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(source), generate


_pointer: Any = intrinsic(_type_pointer)


@cache
def kernels() -> Kernels:
    """Compiled for the loaded library. Raises ConfigurationError when that is not the one that we know."""
    loaded = library()
    return Kernels(_measure(loaded), _copy(loaded))


def _measure(loaded: ctypes.CDLL) -> Any:
    timestamp = ctypes.CFUNCTYPE(c_int64, c_size_t, c_size_t)(address(loaded.rd_kafka_message_timestamp))
    headers = ctypes.CFUNCTYPE(c_int, c_size_t, c_size_t)(address(loaded.rd_kafka_message_headers))

    @numba.njit(nogil=True)
    def measure(  # type: ignore[no-untyped-def]
        messages,
        is_event,
        has_headers,
        partition,
        offset,
        timestamp_ms,
        key_ends,
        key_present,
        value_ends,
        value_present,
    ):
        headers_place = np.zeros(1, np.uint64)
        row = 0
        for number in range(len(messages)):
            message = messages[number]
            words = carray(_pointer(message), _MESSAGE_WORDS, np.int64)
            if words[_ERR] & _LOW_HALF != 0:
                is_event[number] = True
                continue
            partition[row] = words[_PARTITION] & _LOW_HALF
            offset[row] = words[_OFFSET]
            timestamp_ms[row] = timestamp(message, 0)
            key_present[row] = words[_KEY] != 0
            value_present[row] = words[_PAYLOAD] != 0
            key_ends[row + 1] = key_ends[row] + words[_KEY_LEN]
            value_ends[row + 1] = value_ends[row] + words[_LEN]
            has_headers[row] = headers(message, headers_place.ctypes.data) == NO_ERROR
            row += 1
        return row

    return measure


def _copy(loaded: ctypes.CDLL) -> Any:
    destroy = ctypes.CFUNCTYPE(None, c_size_t)(address(loaded.rd_kafka_message_destroy))
    move = ctypes.CFUNCTYPE(c_void_p, c_size_t, c_size_t, c_size_t)(address(ctypes.memmove))

    @numba.njit(nogil=True)
    def copy(messages, key_data, key_ends, value_data, value_ends):  # type: ignore[no-untyped-def]
        row = 0
        key_base, value_base = key_data.ctypes.data, value_data.ctypes.data
        for number in range(len(messages)):
            message = messages[number]
            words = carray(_pointer(message), _MESSAGE_WORDS, np.int64)
            if words[_ERR] & _LOW_HALF == 0:
                move(key_base + key_ends[row], words[_KEY], words[_KEY_LEN])
                move(value_base + value_ends[row], words[_PAYLOAD], words[_LEN])
                row += 1
            destroy(message)

    return copy
