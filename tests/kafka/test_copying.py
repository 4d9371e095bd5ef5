"""What the bytes of a message say of its headers, without asking librdkafka."""

import ctypes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from k2_dagster.kafka.copying import has_no_headers


def varint(number: int) -> bytes:
    """A number as Kafka's records have it: zigzag, seven bits a byte, the lowest first."""
    left = (number << 1) ^ (number >> 63)
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*out, left])


def said(key: bytes, between: bytes, value: bytes, behind: bytes) -> bool:
    """What is said of a record whose key, size, value and rest follow each other."""
    record = ctypes.create_string_buffer(key + between + value + behind)
    at = ctypes.addressof(record)
    return bool(has_no_headers(at, len(key), at + len(key) + len(between), len(value)))


@given(st.binary(max_size=20), st.binary(max_size=20_000), st.binary(min_size=1, max_size=5))
@example(b"", b"", b"\0")
@example(b"k", b"x" * 63, b"\0")
@example(b"k", b"x" * 64, b"\0")
@example(b"k", b"x" * 8191, b"\0")
@example(b"k", b"x" * 8192, b"\0")
def test_a_record_is_believed_by_its_count(key: bytes, value: bytes, behind: bytes) -> None:
    assert said(key, varint(len(value)), value, behind) is (behind[0] == 0)


@given(st.binary(max_size=20), st.binary(max_size=300), st.binary(min_size=1, max_size=12))
def test_what_is_not_laid_out_as_a_record_says_nothing(key: bytes, value: bytes, between: bytes) -> None:
    if between != varint(len(value)):
        assert not said(key, between, value, b"\0")


@pytest.mark.parametrize("size", [0, 5, 1_000])
def test_the_format_before_says_nothing(size: int) -> None:
    """Its size is four bytes, the highest first."""
    assert not said(b"key", size.to_bytes(4, "big"), bytes(size), b"\0")


def test_a_message_without_key_or_value_says_nothing() -> None:
    value = ctypes.create_string_buffer(b"\0value\0")
    at = ctypes.addressof(value)
    assert not has_no_headers(0, 0, at + 1, 5)
    assert not has_no_headers(at, 1, 0, 0)
    assert not has_no_headers(at + 1, 1, at, 1)
