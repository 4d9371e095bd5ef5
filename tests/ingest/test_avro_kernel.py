"""The compiled loop reads what fastavro reads, of any schema, and leaves out what is not exactly its bytes."""

import json
from io import BytesIO
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.ingest.avro_columns import Program, read
from k2_dagster.ingest.avro_decode import FRAME_BYTES, AvroDecoder
from k2_dagster.ingest.avro_layout import bare, parse
from tests.ingest.helpers import binary, framed

LONGS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, -1, 63, 64, -65, 2**55, 2**56, 2**62, -(2**63)])
TEXTS = st.text(max_size=40) | st.sampled_from(["", "A", "12345678", "123456789", "é" * 9])
MANY_TEXTS, MANY_ITEMS = 5_000, 20_000

Leaf = tuple[Any, st.SearchStrategy[Any]]
LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "long": LONGS,
    "int": st.integers(-(2**31), 2**31 - 1),
    "boolean": st.booleans(),
    "double": st.floats(allow_nan=False),
    "float": st.floats(allow_nan=False, width=32),
    "string": TEXTS,
    "bytes": st.binary(max_size=12),
}


@st.composite
def typed(draw: st.DrawFn, name: str, *, inside: bool = False) -> Leaf:
    """A type and the strategy of its values."""
    kinds = [*LEAVES, "enum", "fixed", *(() if inside else ("array", "record"))]
    kind = draw(st.sampled_from(kinds))
    schema: Any = kind
    if kind in LEAVES:
        values = LEAVES[kind]
    elif kind == "enum":
        symbols = [f"S{number}" for number in range(draw(st.integers(1, 70)))]
        schema, values = {"type": "enum", "name": f"E{name}", "symbols": symbols}, st.sampled_from(symbols)
    elif kind == "fixed":
        size = draw(st.integers(1, 9))
        schema, values = {"type": "fixed", "name": f"F{name}", "size": size}, st.binary(min_size=size, max_size=size)
    elif kind == "array":
        items, each = draw(typed(f"{name}i", inside=True) | records(f"{name}i", inside=True))
        schema, values = {"type": "array", "items": items}, st.lists(each, max_size=4)
    else:
        schema, values = draw(records(f"{name}r", inside=False))
    match draw(st.integers(0, 2)):
        case 0:
            return ["null", schema], st.none() | values
        case 1:
            return [schema, "null"], st.none() | values
    return schema, values


@st.composite
def records(draw: st.DrawFn, name: str, *, inside: bool) -> Leaf:
    fields = [(f"f{at}", draw(typed(f"{name}{at}", inside=True))) for at in range(draw(st.integers(1, 4)))]
    schema = {
        "type": "record",
        "name": f"R{name}",
        "fields": [{"name": field, "type": kind} for field, (kind, _) in fields],
    }
    return schema, st.fixed_dictionaries({field: values for field, (_, values) in fields})


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, list[dict[str, Any]]]:
    """A schema and records of it."""
    fields = [(f"f{at}", draw(typed(str(at)))) for at in range(draw(st.integers(1, 6)))]
    schema = {"type": "record", "name": "M", "fields": [{"name": name, "type": kind} for name, (kind, _) in fields]}
    values = st.fixed_dictionaries({name: of for name, (_, of) in fields})
    return json.dumps(schema), draw(st.lists(values, min_size=1, max_size=12))


def encoded(schema_text: str, found: list[dict[str, Any]]) -> list[bytes]:
    schema = fastavro.parse_schema(bare(json.loads(schema_text)))
    out = []
    for one in found:
        body = BytesIO()
        fastavro.schemaless_writer(body, schema, one)
        out.append(framed(7, body.getvalue()))
    return out


def read_at_once(schema_text: str, sent: list[bytes], coded: tuple[str, ...] = ()) -> tuple[list[Any], list[bool]]:
    values = binary(sent)
    offsets = np.frombuffer(values.buffers()[1], np.int32)
    data = np.frombuffer(values.buffers()[2] or b"", np.uint8)
    records, good = read(Program(parse(schema_text), coded), data, offsets, FRAME_BYTES)
    records.validate(full=True)
    return records.to_pylist(), good.tolist()


@settings(max_examples=300, deadline=None)
@given(messages(), st.booleans())
def test_what_was_written_is_read(case: tuple[str, list[dict[str, Any]]], coded: bool) -> None:
    schema_text, found = case
    names = tuple(found[0]) if coded else ()
    got, good = read_at_once(schema_text, encoded(schema_text, found), names)
    assert all(good)
    assert got == found


@settings(max_examples=300, deadline=None)
@given(messages(), st.data())
def test_damage_is_read_as_fastavro_reads_it_or_left_out(
    case: tuple[str, list[dict[str, Any]]], data: st.DataObject
) -> None:
    schema_text, found = case
    sent = encoded(schema_text, found)
    hurt = []
    for one in sent:
        at = data.draw(st.integers(FRAME_BYTES, len(one)))
        cut = data.draw(st.integers(0, 2))
        hurt.append(one[:at] + data.draw(st.binary(max_size=3)) + one[at + cut :])
    schema = fastavro.parse_schema(bare(json.loads(schema_text)))
    got, good = read_at_once(schema_text, hurt)
    for value in (hurt[row] for row in np.flatnonzero(good)):
        body = BytesIO(value[FRAME_BYTES:])
        expected = fastavro.schemaless_reader(body, schema, None)
        assert body.tell() == len(value) - FRAME_BYTES
        assert repr(got.pop(0)) == repr(expected)
    assert not got


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=9) | TEXTS.map(str.encode), min_size=1, max_size=6), st.booleans())
def test_texts_are_utf8_or_left_out(texts: list[bytes], coded: bool) -> None:
    schema_text = json.dumps({"type": "record", "name": "M", "fields": [{"name": "t", "type": "string"}]})
    sent = [framed(7, bytes([2 * len(text)]) + text) for text in texts if len(text) < 64]
    got, good = read_at_once(schema_text, sent, ("t",) if coded else ())
    valid = []
    for text in (text for text in texts if len(text) < 64):
        try:
            valid.append(text.decode())
        except UnicodeDecodeError:
            continue
    assert [one["t"] for one in got] == valid
    assert sum(good) == len(valid)


@pytest.mark.parametrize("value", [0, 1, -1, *(sign * 2**power for power in range(5, 63) for sign in (1, -1))])
def test_numbers_of_every_length_also_as_the_last_bytes(value: int) -> None:
    schema_text = json.dumps({"type": "record", "name": "M", "fields": [{"name": "n", "type": "long"}]})
    assert read_at_once(schema_text, encoded(schema_text, [{"n": value}])) == ([{"n": value}], [True])


@pytest.mark.parametrize("body", [b"\x80\x00", b"\x81\x80\x00", b"\xff" * 9 + b"\x02", b"\xff" * 10 + b"\x01", b"\x80"])
def test_a_number_longer_than_need_be_or_than_64_bits_is_left_out(body: bytes) -> None:
    schema_text = json.dumps({"type": "record", "name": "M", "fields": [{"name": "n", "type": "long"}]})
    for behind in (b"", b"\x02" * 9):
        sent = [framed(7, body), framed(7, b"\x02" + behind)]
        assert read_at_once(schema_text, sent)[1][0] is False


def test_more_distinct_texts_and_items_than_there_was_room_for() -> None:
    array = {"type": "array", "items": "long"}
    fields = [{"name": "t", "type": "string"}, {"name": "a", "type": array}]
    schema_text = json.dumps({"type": "record", "name": "M", "fields": fields})
    found = [{"t": f"text {number % MANY_TEXTS}", "a": [number] * 3} for number in range(2 * MANY_TEXTS)]
    found.append({"t": "large", "a": list(range(MANY_ITEMS))})
    got, good = read_at_once(schema_text, encoded(schema_text, found), ("t",))
    assert all(good)
    assert got == found


@pytest.mark.parametrize(
    "kind",
    [
        ["long"],
        {"type": "array", "items": {"type": "array", "items": "long"}},
        {
            "type": "array",
            "items": ["null", {"type": "record", "name": "N", "fields": [{"name": "n", "type": "long"}]}],
        },
        {"type": "array", "items": {"type": "record", "name": "N", "fields": []}},
    ],
)
def test_what_the_loop_cannot_read_is_read_one_by_one(kind: Any) -> None:
    schema_text = json.dumps({"type": "record", "name": "M", "fields": [{"name": "f", "type": kind}]})
    with pytest.raises(ValueError, match="cannot be read at once"):
        Program(parse(schema_text))
    value: Any = 5 if kind == ["long"] else []
    decoded = AvroDecoder(schema_text).decode(binary(encoded(schema_text, [{"f": value}])))
    assert decoded.records.to_pylist() == [{"f": value}]
    assert not decoded.refusals


def test_codes_name_only_texts_that_came() -> None:
    schema_text = json.dumps({"type": "record", "name": "M", "fields": [{"name": "t", "type": ["null", "string"]}]})
    sent = encoded(schema_text, [{"t": "B"}, {"t": None}, {"t": "A"}, {"t": "B"}])
    values = binary([*sent, sent[0] + b"x"])
    offsets = np.frombuffer(values.buffers()[1], np.int32)
    data = np.frombuffer(values.buffers()[2] or b"", np.uint8)
    records, good = read(Program(parse(schema_text), ["t"]), data, offsets, FRAME_BYTES)
    texts = records.field("t")
    assert isinstance(texts, pa.DictionaryArray)
    assert texts.dictionary.to_pylist() == ["B", "A"]
    assert texts.to_pylist() == ["B", None, "A", "B"]
    assert good.tolist() == [True] * 4 + [False]
