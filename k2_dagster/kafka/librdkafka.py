"""The C API of the librdkafka that comes inside the confluent-kafka wheel, as far as a reader needs it.

Only what librdkafka documents as its public interface is used (rdkafka.h): its functions, and the struct
`rd_kafka_message_t`, whose layout is asserted when the library is loaded.
"""

import ctypes
import logging
from ctypes import POINTER, c_char_p, c_int, c_int32, c_int64, c_size_t, c_ssize_t, c_void_p
from functools import cache
from importlib.metadata import files
from typing import Any

from k2_dagster.errors import ConfigurationError
from k2_dagster.kafka.clients import log_line

CONSUMER = 1
CONF_OK = 0
NO_ERROR = 0
# librdkafka's code for "there is none", as of a message's headers.
NOT_FOUND = -156
ERROR_TEXT_BYTES = 512
# The struct is stable through 2.x, and asserted for the line that the lock file pins.
SUPPORTED_LINE = (2, 16)


class MessageStruct(ctypes.Structure):
    """`rd_kafka_message_t`."""

    _fields_ = (
        ("err", c_int),
        ("rkt", c_void_p),
        ("partition", c_int32),
        ("payload", c_void_p),
        ("len", c_size_t),
        ("key", c_void_p),
        ("key_len", c_size_t),
        ("offset", c_int64),
        ("_private", c_void_p),
    )


MESSAGE_BYTES = 72
WORD_BYTES = 8
# Places in the struct, in words (`err` and `partition` are the low half of theirs).
WORDS = {"err": 0, "partition": 2, "payload": 3, "len": 4, "key": 5, "key_len": 6, "offset": 7}

# Client, syslog level, facility, line; called by the client's own threads.
LogCallback = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p, c_char_p)
# Python's level of each syslog level, 0 (emergency) to 7 (debug), as confluent-kafka has them.
_LOG_LEVELS = (*[logging.CRITICAL] * 3, logging.ERROR, logging.WARNING, logging.INFO, logging.INFO, logging.DEBUG)

_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "rd_kafka_version": (c_int, ()),
    "rd_kafka_err2str": (c_char_p, (c_int,)),
    "rd_kafka_conf_new": (c_void_p, ()),
    "rd_kafka_conf_set": (c_int, (c_void_p, c_char_p, c_char_p, c_char_p, c_size_t)),
    "rd_kafka_conf_destroy": (None, (c_void_p,)),
    "rd_kafka_conf_set_log_cb": (None, (c_void_p, LogCallback)),
    "rd_kafka_name": (c_char_p, (c_void_p,)),
    "rd_kafka_new": (c_void_p, (c_int, c_void_p, c_char_p, c_size_t)),
    "rd_kafka_destroy": (None, (c_void_p,)),
    "rd_kafka_poll_set_consumer": (c_int, (c_void_p,)),
    "rd_kafka_queue_get_consumer": (c_void_p, (c_void_p,)),
    "rd_kafka_queue_destroy": (None, (c_void_p,)),
    "rd_kafka_topic_partition_list_new": (c_void_p, (c_int,)),
    "rd_kafka_topic_partition_list_add": (c_void_p, (c_void_p, c_char_p, c_int32)),
    "rd_kafka_topic_partition_list_set_offset": (c_int, (c_void_p, c_char_p, c_int32, c_int64)),
    "rd_kafka_topic_partition_list_destroy": (None, (c_void_p,)),
    "rd_kafka_assign": (c_int, (c_void_p, c_void_p)),
    "rd_kafka_consumer_close": (c_int, (c_void_p,)),
    "rd_kafka_consume_batch_queue": (c_ssize_t, (c_void_p, c_int, c_void_p, c_size_t)),
    "rd_kafka_message_destroy": (None, (c_void_p,)),
    # The kernel passes addresses of its own arrays: pointers are plain addresses here
    "rd_kafka_message_timestamp": (c_int64, (c_void_p, c_void_p)),
    "rd_kafka_message_headers": (c_int, (c_void_p, c_void_p)),
    "rd_kafka_header_get_all": (
        c_int,
        (c_void_p, c_size_t, POINTER(c_char_p), POINTER(c_void_p), POINTER(c_size_t)),
    ),
}


@cache
def library() -> ctypes.CDLL:
    """The loaded library, its functions typed. Raises ConfigurationError when it is not the one that we know."""
    found = [file for file in files("confluent-kafka") or [] if file.name.startswith("librdkafka")]
    if not found:
        raise ConfigurationError(
            "the confluent-kafka installed here does not bring its own librdkafka",
            advice="set K2_INGEST_READER=plain, or install the wheel of confluent-kafka",
        )
    loaded = ctypes.CDLL(str(found[0].locate()))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, list(arguments)
    _assert_layout(loaded)
    return loaded


@LogCallback  # type: ignore[untyped-decorator]
def log_callback(handle: int | None, level: int, facility: bytes | None, line: bytes | None) -> None:
    """A client's log as events of ours. It lives as long as this module, so no client outlives it."""
    name = library().rd_kafka_name(handle) if handle else b""
    place = min(max(level, 0), len(_LOG_LEVELS) - 1)
    log_line(_LOG_LEVELS[place], *((one or b"").decode(errors="replace") for one in (facility, name, line)))


def _assert_layout(loaded: ctypes.CDLL) -> None:
    version = loaded.rd_kafka_version()
    line = (version >> 24, version >> 16 & 0xFF)
    words = {name: getattr(MessageStruct, name).offset / WORD_BYTES for name in WORDS}
    if line != SUPPORTED_LINE or ctypes.sizeof(MessageStruct) != MESSAGE_BYTES or words != WORDS:
        raise ConfigurationError(
            f"the native reader knows librdkafka {SUPPORTED_LINE} with messages of {MESSAGE_BYTES} bytes; "
            f"this is {line} with {ctypes.sizeof(MessageStruct)}",
            advice="set K2_INGEST_READER=plain",
        )


def address(function: Any) -> int:
    """Address of a C function, for a kernel to call."""
    found = ctypes.cast(function, c_void_p).value
    assert found is not None, "a loaded function has an address"
    return found
