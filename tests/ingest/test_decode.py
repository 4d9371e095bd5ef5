"""Decoding whole batches gives what decoding message by message gives, whatever the messages are."""

import json
import random
from collections.abc import Sequence
from decimal import Decimal
from io import BytesIO
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.errors import SchemaUnknown
from k2_dagster.ingest.avro_decode import FRAME_BYTES, AvroDecoder
from k2_dagster.ingest.decode import Decoder
from k2_dagster.ingest.json_decode import JsonDecoder
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.avro import avro_schema, avro_schema_text
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.declaration import Dataset, FieldType
from k2_dagster.schemas.json_schema import json_schema_text
from tests.ingest.helpers import (
    AVRO_ID,
    FOREIGN_ID,
    JSON_ID,
    ONE,
    START_MICROS,
    Schemas,
    Sent,
    avro,
    binary,
    framed,
    in_json,
    old_tick,
    raw_batch,
    record,
    registry_of,
)

TICKS, BOOK = WIRE_DATASETS["ticks"], WIRE_DATASETS["book"]
FUZZ_MESSAGES = 20_000
DECODERS = {name: AvroDecoder(avro_schema_text(dataset)) for name, dataset in WIRE_DATASETS.items()}
PARSED = {name: fastavro.parse_schema(avro_schema(dataset)) for name, dataset in WIRE_DATASETS.items()}


def one_by_one(dataset: str, value: bytes) -> Any:
    """The record, or None when the bytes are not exactly one."""
    body = BytesIO(value[FRAME_BYTES:])
    bare: Any = DECODERS[dataset]._single
    try:
        found = fastavro.schemaless_reader(body, bare, None)
        found = pa.array([found], DECODERS[dataset].layout.arrow)[0].as_py()
    except (ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError, pa.ArrowException):
        return None
    return found if body.tell() == len(value) - FRAME_BYTES else None


def assert_each_is_what_it_is_alone(dataset: str, values: list[bytes]) -> int:
    """Returns how many were refused."""
    decoded = DECODERS[dataset].decode(binary(values))
    found = dict(zip(decoded.rows.tolist(), decoded.records.to_pylist(), strict=True))
    refused = [one.row for one in decoded.refusals]
    assert sorted([*found, *refused]) == list(range(len(values)))
    assert decoded.rows.tolist() == sorted(found)
    for row, value in enumerate(values):
        assert found.get(row) == one_by_one(dataset, value), (row, value.hex())
    return len(refused)


def some_record(dataset: Dataset, rng: random.Random) -> dict[str, Any]:
    def value(kind: FieldType) -> Any:
        match kind:
            case FieldType.STRING:
                return "".join(rng.choices("AB-é語", k=rng.randint(0, 9)))
            case FieldType.INT:
                return rng.randint(-(2**31), 2**31 - 1)
            case FieldType.STRINGS:
                return ["@" * rng.randint(0, 3) for _ in range(rng.randint(0, 3))]
            case FieldType.LEVELS:
                level = {
                    "price": rng.randint(1, 10**12),
                    "size": rng.randint(0, 10**9),
                    "orders": rng.choice([None, 3]),
                }
                return [level] * rng.randint(0, 5)
            case _:
                return rng.choice([0, -1, 63, 64, rng.randint(-(2**63), 2**63 - 1), 10 ** rng.randint(1, 18)])

    lists = (FieldType.STRINGS, FieldType.LEVELS)
    return {
        one.name: None if not one.required and one.type not in lists and rng.random() < 0.4 else value(one.type)
        for one in dataset.wire_fields
    }


def encoded(dataset: Dataset, record: dict[str, Any]) -> bytes:
    body = BytesIO()
    fastavro.schemaless_writer(body, DECODERS[dataset.name]._single, record)
    return framed(AVRO_ID, body.getvalue())


def damaged(value: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(FRAME_BYTES, len(value))
    match rng.randrange(6):
        case 0:
            return value[: rng.randint(FRAME_BYTES, len(value) - 1)]
        case 1:
            return value + rng.randbytes(rng.randint(1, 9))
        case 2:
            return value[:at] + bytes([value[at] ^ 1 << rng.randrange(8)]) + value[at + 1 :]
        case 3:
            return value[:at] + rng.randbytes(rng.randint(1, 10)) + value[at:]
        case 4:  # a number or length beyond reason
            return value[:at] + b"\xff" * rng.randint(1, 9) + bytes([rng.randrange(128)]) + value[at + 1 :]
        case _:
            return value + value[FRAME_BYTES:]


@pytest.mark.parametrize("name", WIRE_DATASETS)
def test_random_damage_costs_the_damaged_messages_alone(name: str) -> None:
    rng = random.Random(f"{name} 1")
    done = refused = 0
    while done < FUZZ_MESSAGES // len(WIRE_DATASETS):
        share = rng.choice((0.0, 0.01, 0.1, 0.6))
        good = [
            encoded(WIRE_DATASETS[name], some_record(WIRE_DATASETS[name], rng)) for _ in range(rng.choice((1, 30, 300)))
        ]
        refused += assert_each_is_what_it_is_alone(
            name, [damaged(one, rng) if rng.random() < share else one for one in good]
        )
        done += len(good)
    assert refused > done // 100


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.lists(st.booleans(), min_size=1, max_size=40))
def test_any_mixture_is_decoded_as_message_by_message(rng: random.Random, bad: list[bool]) -> None:
    values = [encoded(TICKS, some_record(TICKS, rng)) for _ in bad]
    assert_each_is_what_it_is_alone(
        "ticks", [damaged(one, rng) if is_bad else one for one, is_bad in zip(values, bad, strict=True)]
    )


GOOD = avro(TICKS, sequence=4, conditions=["@", "T"])


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(GOOD[:-1], id="truncated"),
        pytest.param(GOOD[:FRAME_BYTES], id="frame alone"),
        pytest.param(GOOD + b"\0", id="one byte more"),
        pytest.param(GOOD + GOOD, id="doubled with its frame"),
        pytest.param(GOOD + GOOD[FRAME_BYTES:], id="doubled"),
        pytest.param(GOOD[:FRAME_BYTES] + b"\x7f" + GOOD[FRAME_BYTES + 1 :], id="length of the first text"),
        pytest.param(
            GOOD[:FRAME_BYTES] + b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01" + GOOD[FRAME_BYTES + 1 :],
            id="length of 2^63",
        ),
        pytest.param(GOOD[:FRAME_BYTES] + b"\x01" + GOOD[FRAME_BYTES + 1 :], id="negative length"),
        pytest.param(GOOD.replace(b"buy", b"\xff\xfe\xfd"), id="not UTF-8"),
    ],
)
@pytest.mark.parametrize("neighbours", [0, 1, 20, 700])
def test_a_bad_message_is_refused_and_its_neighbours_are_not(bad: bytes, neighbours: int) -> None:
    values = [GOOD] * neighbours + [bad] + [GOOD] * neighbours
    assert assert_each_is_what_it_is_alone("ticks", values) == 1


def test_a_longer_form_of_a_number_is_still_that_number() -> None:
    overlong = GOOD[:FRAME_BYTES] + bytes([GOOD[FRAME_BYTES] | 0x80, 0]) + GOOD[FRAME_BYTES + 1 :]
    assert assert_each_is_what_it_is_alone("ticks", [GOOD, overlong, GOOD] * 20) == 0


def test_a_message_cut_short_does_not_end_in_its_neighbour() -> None:
    """A number in a longer form and the last byte missing: the length adds up, with the neighbour's first byte."""
    whole = avro(TICKS)
    overlong = whole[:FRAME_BYTES] + bytes([whole[FRAME_BYTES] | 0x80, 0]) + whole[FRAME_BYTES + 1 : -1]
    assert len(overlong) == len(whole)
    assert assert_each_is_what_it_is_alone("ticks", [GOOD] * 20 + [overlong] + [GOOD] * 20) == 1


@pytest.mark.parametrize("name", WIRE_DATASETS)
def test_both_forms_of_every_dataset_come_back_as_they_were(name: str) -> None:
    dataset, rng = WIRE_DATASETS[name], random.Random(name)
    records = [some_record(dataset, rng) for _ in range(50)]
    sent = []
    for at, one in enumerate(records):
        sent.append(Sent(encoded(dataset, one) if at % 2 else framed(JSON_ID, json.dumps(one).encode()), offset=at))
    decoded = Decoder(dataset, Schemas(registry_of(dataset))).decode(raw_batch("t", sent))
    assert decoded.refusals == []
    assert decoded.rows.tolist() == list(range(50))
    assert decoded.wire.schema == wire_schema(dataset)
    times = [one.name for one in dataset.wire_fields if one.type is FieldType.TIMESTAMP]
    plain = decoded.wire
    for time in times:
        at = plain.schema.get_field_index(time)
        plain = plain.set_column(at, time, plain.column(at).view(pa.int64()))
    assert plain.to_pylist() == records


def test_several_schemas_in_one_batch_are_each_read_by_their_own() -> None:
    values = [avro(TICKS, sequence=1), old_tick(sequence=2), in_json(TICKS, sequence=3), avro(TICKS, sequence=4)]
    wire = decode_ticks(values).wire
    assert wire["sequence"].to_pylist() == [1, 2, 3, 4]
    assert wire["price"].to_pylist() == [5 * ONE] * 4
    assert wire["size"].to_pylist() == [2 * ONE] * 4
    assert wire["side"].to_pylist() == ["buy", "sell", "buy", "buy"]
    assert set(wire["exchange_timestamp"].view(pa.int64()).to_pylist()) == {START_MICROS}
    assert wire["trade_id"].null_count == 4


def test_a_count_beyond_its_type_is_refused_and_not_wrapped_around() -> None:
    dataset = WIRE_DATASETS["quotes"]
    wide = avro_schema(dataset)
    for one in wide["fields"]:
        if one["name"] == "ask_count":
            one["type"] = ["null", "long"]
    values = [
        avro(dataset, ask_count=3),
        avro(dataset, AVRO_ID, wide, **record(dataset, ask_count=2**33 - 1_000)),
        avro(dataset, ask_count=4),
    ]
    decoded = Decoder(dataset, Schemas(registry_of(dataset))).decode(
        raw_batch("t", [Sent(value, offset=at) for at, value in enumerate(values * 20)])
    )
    assert {(one.row % 3, one.reason) for one in decoded.refusals} == {(1, "not_exact")}
    assert decoded.wire["ask_count"].to_pylist() == [3, 4] * 20


def decode_ticks(values: Sequence[bytes | None], **known: Any) -> Any:
    decoder = Decoder(TICKS, Schemas(registry_of(TICKS)), **known)
    return decoder.decode(raw_batch("t", [Sent(value, offset=at) for at, value in enumerate(values)]))


def decimal_bytes(value: int) -> bytes:
    return value.to_bytes(16, "big", signed=True)


@given(st.integers(-(2**66), 2**66), st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=100, deadline=None)
def test_other_scales_are_rescaled_exactly_or_refused(size: int, price: int) -> None:
    """The older form writes prices with 2 and sizes with 10 decimals; the table has 8 of each."""
    decoded = decode_ticks([old_tick(sequence=1), old_tick(sequence=2, size=decimal_bytes(size), price=price)])
    wanted = (Decimal(price).scaleb(6), Decimal(size).scaleb(-2))
    fits = all(one == int(one) and -(2**63) <= one < 2**63 for one in wanted)
    if fits:
        row = decoded.wire.slice(1).to_pylist()[0]
        assert (row["price"], row["size"]) == tuple(int(one) for one in wanted)
    # the least long of all is refused when it has to be multiplied; no table could hold it
    else:
        assert [(one.row, one.reason) for one in decoded.refusals] == [(1, "not_exact")]
    assert decoded.wire["sequence"].to_pylist()[0] == 1


def test_a_time_in_milliseconds_that_overflows_is_refused() -> None:
    decoded = decode_ticks([old_tick(exchange_timestamp=2**60), old_tick()])
    assert [(one.row, one.reason) for one in decoded.refusals] == [(0, "not_exact")]


def test_reasons_before_decoding() -> None:
    values = [None, b"", b"\0\0\0", b"\1\0\0\0\7abc", GOOD, framed(FOREIGN_ID, b"\2a"), framed(5, b"")]
    decoded = decode_ticks(values, refused_ids=frozenset({5}))
    found = [(one.row, one.reason) for one in decoded.refusals]
    wanted = ["empty", "not_framed", "not_framed", "not_framed", None, "schema_not_for_topic", "schema_unknown"]
    assert found == [(row, reason) for row, reason in enumerate(wanted) if reason]
    assert decoded.rows.tolist() == [4]


def test_an_unknown_schema_refuses_nothing_and_says_so() -> None:
    with pytest.raises(SchemaUnknown):
        decode_ticks([GOOD, framed(12345, b"")])


JSON_BASE = in_json(BOOK, sequence=3)[FRAME_BYTES:].decode()
LEVEL = '{"price": 1, "size": 2}'


def json_book(bids: str = "[]", more: str = "") -> bytes:
    return (JSON_BASE.replace('"bids": []', f'"bids": {bids}')[:-1] + more + "}").encode()


JSON_CASES = {
    "good": json_book(f"[{LEVEL}]"),
    "integers with a point": json_book('[{"price": 1.0, "size": 2e0}]'),
    "fraction": json_book('[{"price": 1.5, "size": 2}]'),
    "fraction that a float loses": json_book('[{"price": 1.00000000000000000001, "size": 2}]'),
    "integer that a float loses": json_book('[{"price": 9007199254740993.0, "size": 2}]'),
    "beyond 64 bits": json_book('[{"price": 99999999999999999999, "size": 2}]'),
    "huge exponent": json_book('[{"price": 1e999999999, "size": 2}]'),
    "boolean for a number": json_book('[{"price": true, "size": 2}]'),
    "text for a number": json_book('[{"price": "1", "size": 2}]'),
    "object for a list": json_book("{}"),
    "unknown field": json_book(more=', "zzz": [1, {"a": 2}]'),
    "name twice": json_book(more=', "symbol": "B"'),
    "not UTF-8": json_book(more=', "session": "?"').replace(b"?", b"\xff"),
    "name not UTF-8": json_book(more=', "?": 1').replace(b"?", b"\xff"),
    "half a surrogate": json_book(more=', "session": "\\ud800"'),
    "not a number": json_book('[{"price": NaN, "size": 2}]'),
    "not a number in an unknown field": json_book(more=', "zzz": NaN'),
    "infinite in an unknown field": json_book(more=', "zzz": [-Infinity]'),
    "beyond a double in an unknown field": json_book(more=', "zzz": 1e999'),
    "a text that names no number": json_book(more=', "zzz": "NaN, Inf"'),
    "deep": json_book(more=', "zzz": ' + "[" * 3000 + "]" * 3000),
    "two objects": json_book() + json_book(),
    "on two lines": json_book().replace(b", ", b",\n"),
    "cut short": json_book()[:-20],
    "a list": b"[]",
    "nothing": b"",
}
JSON_ACCEPTED = {
    "good",
    "integers with a point",
    "integer that a float loses",
    "unknown field",
    "a text that names no number",
    "deep",
    "on two lines",
}


@pytest.mark.parametrize("case", JSON_CASES)
def test_a_json_message_is_what_it_is_alone(case: str) -> None:
    decoder = JsonDecoder(json_schema_text(BOOK))
    good, value = framed(JSON_ID, JSON_CASES["good"]), framed(JSON_ID, JSON_CASES[case])
    alone = decoder.decode(binary([value]))
    among = decoder.decode(binary([good] * 40 + [value] + [good] * 40))
    if case not in ("name twice",):  # either is a reading of it; it must only be the same one everywhere
        assert len(alone.rows) == (case in JSON_ACCEPTED)
    assert sorted([*among.rows.tolist(), *(one.row for one in among.refusals)]) == list(range(81))
    assert (40 in among.rows) == (len(alone.rows) == 1)
    if len(alone.rows):
        assert among.records[40].as_py() == alone.records[0].as_py()
    assert np.count_nonzero(among.rows != 40) == 80


def test_an_exact_number_with_a_point_is_that_number() -> None:
    decoder = JsonDecoder(json_schema_text(BOOK))
    found = decoder.decode(binary([framed(JSON_ID, JSON_CASES["integer that a float loses"])]))
    assert found.records[0]["bids"][0]["price"].as_py() == 9007199254740993
