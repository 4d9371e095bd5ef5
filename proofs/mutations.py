"""Ways to spoil a message: its bytes, its frame, its key and headers, its values. Seeded; some results stay valid."""

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import fastavro

FRAME_BYTES = 5
Headers = list[tuple[str, str | bytes | None]]
Record = dict[str, Any]

HUGE_CHARACTERS = 100_000
# Beyond what a recursive parser survives on a thread's stack of a few megabytes.
DEEP_LEVELS = 100_000
MANY_LEVELS = 500


@dataclass(frozen=True)
class Original:
    """A valid message. `wire` is avro or json."""

    dataset: str
    wire: str
    key: bytes | None
    value: bytes | None
    headers: Headers = field(default_factory=list)


@dataclass(frozen=True)
class Surroundings:
    """What a mutation may borrow: other messages, registered ids of other topics, ids that nobody knows, schemas."""

    others: list[Original]
    foreign_ids: list[int]
    unknown_ids: list[int]
    schemas: dict[str, Any]


Mutation = Callable[[random.Random, Original, Surroundings], Original]


def mutate(chance: random.Random, message: Original, around: Surroundings) -> tuple[str, Original]:
    """Spoil a message in one of the ways that fit its form; returns the way's name too."""
    ways = {**OF_BYTES, **OF_ENVELOPE, **(OF_AVRO if message.wire == "avro" else OF_JSON)}
    name = chance.choice(sorted(ways))
    return name, ways[name](chance, message, around)


def _bytes(change: Callable[[random.Random, bytearray], bytes | bytearray]) -> Mutation:
    def way(chance: random.Random, message: Original, _around: Surroundings) -> Original:
        return replace(message, value=bytes(change(chance, bytearray(message.value or b"\0"))))

    return way


def _flip(chance: random.Random, data: bytearray, low: int = 0, high: int | None = None) -> bytearray:
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(low, min(high or len(data), len(data)))] ^= 1 << chance.randrange(8)
    return data


def _cut(chance: random.Random, data: bytearray) -> bytes:
    start = chance.randrange(len(data))
    return bytes(data[:start] + data[start + chance.randint(1, 20) :])


def _repeat(chance: random.Random, data: bytearray) -> bytes:
    start = chance.randrange(len(data))
    return bytes(data[: start + chance.randint(1, 20)] + data[start:])


def _swap(chance: random.Random, data: bytearray) -> bytearray:
    one, other = chance.randrange(len(data)), chance.randrange(len(data))
    data[one], data[other] = data[other], data[one]
    return data


OF_BYTES: dict[str, Mutation] = {
    "bits_flipped": _bytes(lambda chance, data: _flip(chance, data, min(FRAME_BYTES, len(data) - 1))),
    "frame_flipped": _bytes(lambda chance, data: _flip(chance, data, 0, FRAME_BYTES)),
    "byte_replaced": _bytes(lambda chance, data: _swap(chance, data + bytes([chance.randrange(256)]))[:-1]),
    "bytes_swapped": _bytes(_swap),
    "truncated": _bytes(lambda chance, data: data[: chance.randrange(len(data))]),
    "extended": _bytes(lambda chance, data: bytes(data) + chance.randbytes(chance.randint(1, 40))),
    "slice_removed": _bytes(_cut),
    "slice_repeated": _bytes(_repeat),
    "noise": _bytes(lambda chance, _data: chance.randbytes(chance.randint(0, 300))),
    "framed_noise": _bytes(lambda chance, data: bytes(data[:FRAME_BYTES]) + chance.randbytes(chance.randint(0, 300))),
    "zeros": _bytes(lambda chance, data: bytes(data[:FRAME_BYTES]) + bytes(chance.randint(0, 200))),
    "ones": _bytes(lambda chance, data: bytes(data[:FRAME_BYTES]) + b"\xff" * chance.randint(1, 200)),
    "frame_only": _bytes(lambda _chance, data: data[:FRAME_BYTES]),
    "frame_twice": _bytes(lambda _chance, data: data[:FRAME_BYTES] + data),
    "frame_missing": _bytes(lambda _chance, data: data[FRAME_BYTES:]),
}


def _with_id(message: Original, schema_id: int) -> Original:
    return replace(message, value=b"\0" + schema_id.to_bytes(4, "big") + (message.value or b"")[FRAME_BYTES:])


def _origin(chance: random.Random) -> Headers:
    values = [b"live", b"recovered", b"reprocessed", b"restated", b"nonsense", b"", None, b"\xff\xfe"]
    return [("k2-origin", chance.choice(values)) for _ in range(chance.randint(1, 3))]


def _other_value(chance: random.Random, message: Original, around: Surroundings) -> Original:
    """Of its own dataset, the other comes with its key: elsewhere its identity would land a second time."""
    other = chance.choice(around.others)
    return replace(message, value=other.value, key=other.key if other.dataset == message.dataset else message.key)


OF_ENVELOPE: dict[str, Mutation] = {
    "no_value": lambda _chance, message, _around: replace(message, value=None),
    "empty_value": lambda _chance, message, _around: replace(message, value=b""),
    "foreign_schema": lambda chance, message, around: _with_id(message, chance.choice(around.foreign_ids)),
    "unknown_schema": lambda chance, message, around: _with_id(message, chance.choice(around.unknown_ids)),
    "value_of_another": _other_value,
    "no_key": lambda _chance, message, _around: replace(message, key=None),
    "noise_key": lambda chance, message, _around: replace(message, key=chance.randbytes(chance.randint(0, 40))),
    "key_of_another": lambda chance, message, around: replace(message, key=chance.choice(around.others).key),
    "origin_header": lambda chance, message, _around: replace(message, headers=_origin(chance)),
    "noise_headers": lambda chance, message, _around: replace(
        message, headers=[(f"h{place}", chance.randbytes(9)) for place in range(chance.randint(1, 8))]
    ),
    "unchanged_twice": lambda _chance, message, _around: message,
}

_EXTREMES = (
    0,
    -1,
    1,
    2**31 - 1,
    2**31,
    -(2**31) - 1,
    10**18 - 1,
    10**18,
    2**53 + 1,
    2**62,
    2**62 + 1,
    2**63 - 1,
    -(2**63),
)
_TIMES = (0, -1, 315_532_800_000_000, 4_102_444_800_000_000, 4_102_444_800_000_001, 2**63 - 1, -(2**63))
_TEXTS = (
    "",
    " ",
    "x" * 64,
    "x" * 65,
    "x" * HUGE_CHARACTERS,
    "\0",
    "ü",
    "日本",
    "\u202e",
    "'; drop table",
    "a.b",
    "\n",
    "*",
)
_INT32_FIELDS = ("exchange_timestamp_nanos", "receive_timestamp_nanos", "bid_count", "ask_count")
_INT32_EXTREMES = (0, -1, 999, 1_000, 2**31 - 1, -(2**31))


def _spoiled_value(chance: random.Random, name: str, value: Any) -> Any:
    """Another value of the same Avro type."""
    if name in _INT32_FIELDS:
        return chance.choice(_INT32_EXTREMES)
    if isinstance(value, str):
        return chance.choice(_TEXTS)
    if isinstance(value, list):
        level = {"price": chance.choice(_EXTREMES), "size": chance.choice(_EXTREMES), "orders": None}
        return chance.choice([[], [level], [*value, level], [*value, level] * chance.choice((2, MANY_LEVELS))])
    return chance.choice(_TIMES if name.endswith("timestamp") else _EXTREMES)


def _avro_record(message: Original, around: Surroundings) -> Record:
    found = fastavro.schemaless_reader(
        io.BytesIO((message.value or b"")[FRAME_BYTES:]), around.schemas[message.dataset]
    )
    assert isinstance(found, dict)
    return found


def _avro_encoded(message: Original, record: Record, around: Surroundings) -> Original:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, around.schemas[message.dataset], record)
    return replace(message, value=(message.value or b"")[:FRAME_BYTES] + out.getvalue())


def _avro_field(chance: random.Random, message: Original, around: Surroundings) -> Original:
    record = _avro_record(message, around)
    name = chance.choice([key for key, value in record.items() if value is not None and key != "conditions"])
    record[name] = _spoiled_value(chance, name, record[name])
    return _avro_encoded(message, record, around)


def _avro_null(chance: random.Random, message: Original, around: Surroundings) -> Original:
    record = _avro_record(message, around)
    optional = [one["name"] for one in around.schemas[message.dataset]["fields"] if isinstance(one["type"], list)]
    for name in chance.sample(optional, chance.randint(1, 3)):
        record[name] = None
    return _avro_encoded(message, record, around)


def _avro_invalid_text(chance: random.Random, message: Original, around: Surroundings) -> Original:
    """Bytes that are no UTF-8 in the place of a text of the same length."""
    texts = [value for value in _avro_record(message, around).values() if isinstance(value, str) and value]
    wanted = chance.choice(texts).encode()
    bad = (b"\xff\xc3\x28\xf0\x90" * len(wanted))[: len(wanted)]
    return replace(message, value=(message.value or b"").replace(wanted, bad, 1))


def _avro_sequence(chance: random.Random, message: Original, around: Surroundings) -> Original:
    record = _avro_record(message, around)
    name = chance.choice(("sequence", "previous_sequence", "publisher_sequence"))
    before = record[name] if isinstance(record[name], int) else 0
    record[name] = max(0, before + chance.choice((-1_000, -10, -1, 0, 1, 10, 1_000)))
    return _avro_encoded(message, record, around)


OF_AVRO: dict[str, Mutation] = {
    "field_spoiled": _avro_field,
    "field_spoiled_too": _avro_field,
    "fields_null": _avro_null,
    "text_invalid": _avro_invalid_text,
    "sequence_moved": _avro_sequence,
}

_JSON_VALUES = (
    *("1e400", "-1e400", "1.5", "1.0", "1E3", "NaN", "Infinity", "null", "true", '"text"', '"12"', "[]", "{}", "[1]"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "99999999999999999999999", "-0", "01"),
    *('"\\ud800"', '"\\u0000"', '"\\n"', "0.1", "123456789012345678.0", '[{"price":1}]', '[{"price":null,"size":1}]'),
)


def _json_text(change: Callable[[random.Random, Record], str]) -> Mutation:
    def way(chance: random.Random, message: Original, _around: Surroundings) -> Original:
        value = message.value or b""
        text = change(chance, json.loads(value[FRAME_BYTES:]))
        return replace(message, value=value[:FRAME_BYTES] + text.encode())

    return way


def _json_value(chance: random.Random, record: Record) -> str:
    name, marker = chance.choice(sorted(record)), "\x01marker\x01"
    return json.dumps({**record, name: marker}).replace(json.dumps(marker), chance.choice(_JSON_VALUES))


def _json_without(chance: random.Random, record: Record) -> str:
    del record[chance.choice(sorted(record))]
    return json.dumps(record)


def _json_deep(chance: random.Random, record: Record) -> str:
    opening, closing = chance.choice((("[", "]"), ('{"a":', "}")))
    depth = chance.choice((1, 10, 500, 5_000, DEEP_LEVELS))
    return json.dumps(record)[:-1] + ',"more":' + opening * depth + "1" + closing * depth + "}"


OF_JSON: dict[str, Mutation] = {
    "json_value": _json_text(_json_value),
    "json_value_too": _json_text(_json_value),
    "json_value_three": _json_text(_json_value),
    "json_without": _json_text(_json_without),
    "json_more": _json_text(lambda _chance, record: json.dumps({**record, "more": {"nested": [1, "x", None]}})),
    "json_deep": _json_text(_json_deep),
    "json_spaced": _json_text(lambda _chance, record: " " + json.dumps(record, indent=2) + "\n"),
    "json_twice": _json_text(lambda _chance, record: json.dumps(record) + json.dumps(record)),
    "json_key_twice": _json_text(lambda _chance, record: json.dumps(record)[:-1] + ',"symbol":"TWICE"}'),
    "json_array": _json_text(lambda _chance, record: json.dumps([record])),
    "json_scalar": _json_text(lambda chance, _record: chance.choice(_JSON_VALUES)),
    "json_marked": _json_text(lambda _chance, record: "\ufeff" + json.dumps(record)),
}
