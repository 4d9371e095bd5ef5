"""The compiled loop that reads librdkafka's messages. Addresses of its functions are arguments, so that the loop can be
cached on disk like every other kernel: compiling it in each process took half a second, and the memory of a compiler.
"""

from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import carray  # type: ignore[attr-defined]
from numba.core import cgutils, types
from numba.extending import intrinsic

from k2_dagster.kafka.librdkafka import MESSAGE_BYTES, NO_ERROR, WORD_BYTES, WORDS, address, library

_ERR, _PARTITION, _PAYLOAD, _LEN = WORDS["err"], WORDS["partition"], WORDS["payload"], WORDS["len"]
_KEY, _KEY_LEN, _OFFSET = WORDS["key"], WORDS["key_len"], WORDS["offset"]
_MESSAGE_WORDS = MESSAGE_BYTES // WORD_BYTES
_LOW_HALF = np.int64(0xFFFFFFFF)
# A variable-length 32-bit number takes at most so many bytes.
_VARINT_BYTES = 5

# Why the loop stopped: behind the last message, or at one that is an event, whose bytes find no room, or that has
# headers (its columns are filled, and it is not destroyed).
ALL, EVENT, NO_ROOM, HEADERS = range(4)


class Functions(NamedTuple):
    """Addresses of librdkafka's functions that the loop calls."""

    timestamp: np.uint64
    headers: np.uint64
    destroy: np.uint64


@cache
def functions() -> Functions:
    """Of the loaded library. Raises ConfigurationError when that is not the one that we know."""
    loaded = library()
    called = (loaded.rd_kafka_message_timestamp, loaded.rd_kafka_message_headers, loaded.rd_kafka_message_destroy)
    return Functions(*(np.uint64(address(one)) for one in called))


def _type_pointer(_typing: Any, source: Any) -> Any:
    """An integer address as a pointer."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(source), generate


def _type_call(_typing: Any, function: Any, first: Any, second: Any) -> Any:
    """Call a C function of two words at an address. What it returns means nothing where it returns nothing."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        pointer = builder.inttoptr(arguments[0], ir.FunctionType(word, [word, word]).as_pointer())
        return builder.call(pointer, arguments[1:])

    return types.int64(function, first, second), generate


def _type_copy(_typing: Any, target: Any, source: Any, size_bytes: Any) -> Any:
    """Copy bytes from one address to another."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        to, origin = (builder.inttoptr(one, cgutils.voidptr_t) for one in arguments[:2])
        cgutils.raw_memcpy(builder, to, origin, arguments[2], 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(target, source, size_bytes), generate


_pointer: Any = intrinsic(_type_pointer)
_call: Any = intrinsic(_type_call)
_copy: Any = intrinsic(_type_copy)


@numba.njit(inline="always")
def has_no_headers(key: int, key_bytes: int, payload: int, value_bytes: int) -> bool:
    """Whether the bytes of the message say that it has no headers: False when they do not say.

    In Kafka's record format (v2) the value's size stands between key and value, and the count of headers behind the
    value. Where the first is so, librdkafka shows the record where it was received, and the count can be read there.
    Asking it instead takes an allocation for each message.
    """
    at = key + key_bytes
    if key == 0 or payload <= at or payload - at > _VARINT_BYTES:
        return False
    left = value_bytes << 1
    between = carray(_pointer(at), payload - at, np.uint8)
    for byte in between[:-1]:
        if byte != (left & 0x7F) | 0x80:
            return False
        left >>= 7
    return bool(between[-1] == left and carray(_pointer(payload + value_bytes), 1, np.uint8)[0] == 0)


@numba.njit(nogil=True, cache=True)
def take(  # type: ignore[no-untyped-def]
    functions, messages, row, partition, offset, timestamp_ms,
    key_ends, key_present, key_data, value_ends, value_present, value_data,
):  # fmt: skip
    """Called with addresses of messages and the columns of a batch, it fills these from `row` on and destroys the
    messages. Returns how many it is done with, the next row, and why it stopped."""
    place = np.zeros(1, np.uint64)
    key_base, value_base = key_data.ctypes.data, value_data.ctypes.data
    key_at, value_at = np.int64(key_ends[row]), np.int64(value_ends[row])
    for number in range(len(messages)):
        message = np.int64(messages[number])
        words = carray(_pointer(message), _MESSAGE_WORDS, np.int64)
        if words[_ERR] & _LOW_HALF != 0:
            return number, row, EVENT
        key_bytes, value_bytes = words[_KEY_LEN], words[_LEN]
        if key_at + key_bytes > len(key_data) or value_at + value_bytes > len(value_data):
            return number, row, NO_ROOM
        partition[row] = words[_PARTITION] & _LOW_HALF
        offset[row] = words[_OFFSET]
        timestamp_ms[row] = _call(functions.timestamp, message, 0)
        key_present[row] = words[_KEY] != 0
        value_present[row] = words[_PAYLOAD] != 0
        _copy(key_base + key_at, words[_KEY], key_bytes)
        _copy(value_base + value_at, words[_PAYLOAD], value_bytes)
        key_at += key_bytes
        value_at += value_bytes
        row += 1
        key_ends[row], value_ends[row] = key_at, value_at
        plain = has_no_headers(words[_KEY], key_bytes, words[_PAYLOAD], value_bytes)
        if not plain and _call(functions.headers, message, place.ctypes.data) & _LOW_HALF == NO_ERROR:
            return number, row, HEADERS
        _call(functions.destroy, message, 0)
    return len(messages), row, ALL
