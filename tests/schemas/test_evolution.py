"""What may change in a message schema, and what may not."""

import copy
import io
import json
from collections.abc import Callable
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.schemas.avro import avro_schema, avro_schema_text
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.evolution import Kind, problems
from k2_dagster.schemas.json_schema import json_schema, json_schema_text

Schema = dict[str, Any]
Change = Callable[[Schema], object]

TICKS, BOOK = WIRE_DATASETS["ticks"], WIRE_DATASETS["book"]


def field(schema: Schema, name: str) -> Schema:
    return next(one for one in schema["fields"] if one["name"] == name)


def level(schema: Schema) -> Schema:
    """The record of a bid's level."""
    found: Schema = field(schema, "bids")["type"]["items"]
    return found


def changed(old: Schema, change: Change, kind: Kind = "AVRO") -> list[tuple[str, str]]:
    new = copy.deepcopy(old)
    change(new)
    return [(one.field, one.what) for one in problems(json.dumps(old), json.dumps(new), kind)]


@pytest.mark.parametrize("dataset", WIRE_DATASETS.values(), ids=list(WIRE_DATASETS))
def test_a_declared_schema_may_follow_itself(dataset: Any) -> None:
    assert problems(avro_schema_text(dataset), avro_schema_text(dataset), "AVRO") == []
    assert problems(json_schema_text(dataset), json_schema_text(dataset), "JSON") == []


ALLOWED: dict[str, Change] = {
    "a new field with a default": lambda s: s["fields"].append(
        {"name": "x", "type": ["null", "long"], "default": None}
    ),
    "another description": lambda s: (s.update(doc="new"), field(s, "price").update(doc="new")),
    "a field that becomes nullable": lambda s: field(s, "side").update(type=["null", "string"], default=None),
    "an int that becomes a long": lambda s: field(s, "exchange_timestamp_nanos").update(type=["null", "long"]),
    "another order of fields": lambda s: s["fields"].reverse(),
    "a field at the front": lambda s: s["fields"].insert(0, {"name": "x", "type": ["null", "int"], "default": None}),
    "a new list": lambda s: s["fields"].append({"name": "x", "type": {"type": "array", "items": "int"}, "default": []}),
}


@pytest.mark.parametrize("change", ALLOWED.values(), ids=list(ALLOWED))
def test_what_breaks_nobody_passes(change: Change) -> None:
    assert changed(avro_schema(TICKS), change) == []


REFUSED: dict[str, tuple[Change, str, str]] = {
    "a new field without a default": (
        lambda s: s["fields"].append({"name": "x", "type": ["null", "long"]}),
        "x",
        "messages of the old version cannot be read",
    ),
    "a new field that cannot be null, though it has a default": (
        lambda s: s["fields"].append({"name": "x", "type": "long", "default": 1}),
        "x",
        "it is new and can neither be null nor is it a list",
    ),
    "another type beside the first": (
        lambda s: field(s, "trade_id").update(type=["null", "string", "long"]),
        "trade_id",
        "it may now be long",
    ),
    "a wider type beside the first": (
        lambda s: field(s, "exchange_timestamp_nanos").update(type=["null", "int", "long"]),
        "exchange_timestamp_nanos",
        "it may now be long",
    ),
    "a name that differs only in case": (
        lambda s: s["fields"].append({"name": "Price", "type": ["null", "long"], "default": None}),
        "Price",
        "its name is price but for case",
    ),
    "a removed field": (lambda s: s["fields"].remove(field(s, "trade_id")), "trade_id", "it is removed or renamed"),
    "a renamed field": (
        lambda s: field(s, "trade_id").update(name="id", aliases=["trade_id"]),
        "trade_id",
        "it is removed or renamed",
    ),
    "another scale": (lambda s: field(s, "price")["type"].update(scale=9), "price", "its scale was 8, is 9"),
    "no scale": (lambda s: field(s, "price")["type"].pop("scale"), "price", "its scale was 8, is not given"),
    "another unit": (
        lambda s: field(s, "size")["type"].update(unit="lots"),
        "size",
        "its unit was 'base units, shares or contracts, scale 8', is 'lots'",
    ),
    "another logical type": (
        lambda s: field(s, "exchange_timestamp")["type"].update(logicalType="timestamp-millis"),
        "exchange_timestamp",
        "its logicalType was 'timestamp-micros', is 'timestamp-millis'",
    ),
    "another logical type in a union": (
        lambda s: field(s, "receive_timestamp")["type"][1].update(logicalType="timestamp-millis"),
        "receive_timestamp",
        "its logicalType was 'timestamp-micros', is 'timestamp-millis'",
    ),
    "a plain number that becomes a price": (
        lambda s: field(s, "sequence").update(type=["null", {"type": "long", "scale": 8}]),
        "sequence",
        "its scale was not given, is 8",
    ),
    "a narrower type": (
        lambda s: field(s, "sequence").update(type=["null", "int"]),
        "sequence",
        "its type was long, is int",
    ),
    "a type that is not exact": (
        lambda s: field(s, "sequence").update(type=["null", "double"]),
        "sequence",
        "its type was long, is double",
    ),
    "a field that may no longer be null": (
        lambda s: (field(s, "sequence").update(type="long"), field(s, "sequence").pop("default")),
        "sequence",
        "it may no longer be null",
    ),
    "another record name": (lambda s: s.update(name="Trade"), "", "messages of the old version cannot be read"),
}


@pytest.mark.parametrize(("change", "name", "what"), REFUSED.values(), ids=list(REFUSED))
def test_what_breaks_somebody_is_refused_with_field_and_reason(change: Change, name: str, what: str) -> None:
    assert changed(avro_schema(TICKS), change) == [(name, what)]


def test_nested_fields_are_named_by_their_path() -> None:
    book = avro_schema(BOOK)
    assert changed(book, lambda s: level(s)["fields"].pop()) == [("bids[].orders", "it is removed or renamed")]
    assert changed(book, lambda s: level(s)["fields"][0]["type"].update(scale=6)) == [
        ("bids[].price", "its scale was 8, is 6")
    ]
    assert changed(book, lambda s: level(s)["fields"].append({"name": "x", "type": "int"})) == [
        ("bids[].x", "it is new and can neither be null nor is it a list")
    ]


def test_a_text_that_is_no_schema_is_a_problem() -> None:
    good = avro_schema_text(TICKS)
    for bad in ("", "{", '{"type": "record"}', '"nothing"'):
        assert [one.what for one in problems(good, bad, "AVRO")] == ["the new text is not a schema"]
        assert [one.what for one in problems(bad, good, "AVRO")] == ["the old text is not a schema"]


JSON_ALLOWED: dict[str, Change] = {
    "a new optional property": lambda s: s["properties"].update(x={"type": "string"}),
    "another description": lambda s: s["properties"]["price"].update(description="new"),
    "a property that becomes nullable": lambda s: s["properties"]["side"].update(type=["string", "null"]),
    "a property that is no longer required": lambda s: s["required"].remove("side"),
}


@pytest.mark.parametrize("change", JSON_ALLOWED.values(), ids=list(JSON_ALLOWED))
def test_what_breaks_nobody_passes_in_json(change: Change) -> None:
    assert changed(json_schema(TICKS), change, "JSON") == []


JSON_REFUSED: dict[str, tuple[Change, str, str]] = {
    "a new required property": (
        lambda s: (s["properties"].update(x={"type": "string"}), s["required"].append("x")),
        "x",
        "it is now required",
    ),
    "a removed property": (lambda s: s["properties"].pop("trade_id"), "trade_id", "it is removed or renamed"),
    "another scale": (lambda s: s["properties"]["price"].update(scale=2), "price", "its scale was 8, is 2"),
    "another unit": (
        lambda s: s["properties"]["exchange_timestamp"].update(unit="UTC milliseconds"),
        "exchange_timestamp",
        "its unit was 'UTC microseconds', is 'UTC milliseconds'",
    ),
    "narrower bounds": (
        lambda s: s["properties"]["price"].update(minimum=0),
        "price",
        f"its minimum was {-(2**63)}, is 0",
    ),
    "wider bounds": (
        lambda s: s["properties"]["exchange_timestamp_nanos"].update(maximum=2**40),
        "exchange_timestamp_nanos",
        f"its maximum was {2**31 - 1}, is {2**40}",
    ),
    "no bounds": (
        lambda s: s["properties"]["exchange_timestamp_nanos"].pop("minimum"),
        "exchange_timestamp_nanos",
        f"its minimum was {-(2**31)}, is not given",
    ),
    "a name that differs only in case": (
        lambda s: s["properties"].update(PRICE={"type": ["integer", "null"]}),
        "PRICE",
        "its name is price but for case",
    ),
    "another type": (lambda s: s["properties"]["price"].update(type="string"), "price", "it may no longer be integer"),
    "a wider type without an exact place": (
        lambda s: s["properties"]["price"].update(type=["integer", "number"]),
        "price",
        "it may now be number",
    ),
    "an enumeration": (
        lambda s: s["properties"]["side"].update(enum=["buy"]),
        "side",
        "its enum was not given, is ['buy']",
    ),
    "a pattern": (
        lambda s: s["properties"]["side"].update(pattern="b.*"),
        "side",
        "its pattern was not given, is 'b.*'",
    ),
    "closing the object": (
        lambda s: s.update(additionalProperties=False),
        "",
        "its additionalProperties was not given, is False",
    ),
}


@pytest.mark.parametrize(("change", "name", "what"), JSON_REFUSED.values(), ids=list(JSON_REFUSED))
def test_what_breaks_somebody_is_refused_in_json(change: Change, name: str, what: str) -> None:
    assert changed(json_schema(TICKS), change, "JSON") == [(name, what)]


def test_nested_properties_are_named_by_their_path() -> None:
    old = json_schema(BOOK)
    assert changed(old, lambda s: s["properties"]["bids"]["items"]["properties"]["size"].update(scale=0), "JSON") == [
        ("bids[].size", "its scale was 8, is 0")
    ]
    assert changed(old, lambda s: s["properties"]["asks"]["items"]["required"].append("orders"), "JSON") == [
        ("asks[].orders", "it is now required")
    ]


PLAIN_TYPES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(["int", "long", "string", "boolean", "double"]),
    st.builds(lambda scale: {"type": "long", "scale": scale}, st.integers(0, 9)),
    st.sampled_from(["timestamp-micros", "timestamp-millis"]).map(lambda name: {"type": "long", "logicalType": name}),
)
TYPES = st.one_of(
    PLAIN_TYPES,
    PLAIN_TYPES.map(lambda one: ["null", one]),
    PLAIN_TYPES.map(lambda one: {"type": "array", "items": one}),
)


def record(types: list[tuple[str, Any]]) -> Schema:
    return {"type": "record", "name": "R", "fields": [_field(name, type_) for name, type_ in types]}


def _field(name: str, type_: Any) -> Schema:
    return {"name": name, "type": type_} | ({"default": None} if isinstance(type_, list) else {})


NAMES = st.sampled_from("abcdef")
RECORDS = st.lists(st.tuples(NAMES, TYPES), min_size=1, max_size=6, unique_by=lambda one: one[0]).map(record)


@given(RECORDS)
def test_any_schema_may_follow_itself(schema: Schema) -> None:
    assert changed(schema, lambda _: None) == []


@given(RECORDS, st.data())
def test_any_removal_is_refused_by_name(schema: Schema, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([one["name"] for one in schema["fields"]]))
    assert changed(schema, lambda s: s["fields"].remove(field(s, name))) == [(name, "it is removed or renamed")]


@given(RECORDS, RECORDS, st.data())
def test_what_passes_reads_old_messages_and_changes_no_value(old: Schema, new: Schema, data: st.DataObject) -> None:
    """Fields that only one has are made compatible first, so that many pairs pass."""
    kept = {one["name"]: one for one in new["fields"]}
    new["fields"] = [data.draw(st.sampled_from([one, kept.get(one["name"], one)])) for one in old["fields"]] + [
        {**one, "type": ["null", "int"], "default": None}
        for one in new["fields"]
        if one["name"] not in {other["name"] for other in old["fields"]}
    ]
    if problems(json.dumps(old), json.dumps(new), "AVRO"):
        return
    message = {one["name"]: data.draw(_values(one["type"])) for one in old["fields"]}
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(_unlogical(old)), message)
    buffer.seek(0)
    read: Any = fastavro.schemaless_reader(
        buffer, fastavro.parse_schema(_unlogical(old)), fastavro.parse_schema(_unlogical(new))
    )
    assert {name: read[name] for name in message} == message
    for one in old["fields"]:
        assert _meaning(field(new, one["name"])["type"]) == _meaning(one["type"])


def _values(type_: Any) -> st.SearchStrategy[Any]:
    if isinstance(type_, list):
        return st.none() | _values(type_[1])
    if isinstance(type_, dict):
        return st.lists(_values(type_["items"]), max_size=2) if type_["type"] == "array" else _values(type_["type"])
    return {
        "int": st.integers(-(2**31), 2**31 - 1),
        "long": st.integers(-(2**63), 2**63 - 1),
        "string": st.text("ab", max_size=3),
        "boolean": st.booleans(),
        "double": st.floats(allow_nan=False),
    }[str(type_)]


def _unlogical(schema: Any) -> Any:
    """The schema without logical types, so that values compare as they are on the wire."""
    if isinstance(schema, dict):
        return {key: _unlogical(value) for key, value in schema.items() if key != "logicalType"}
    return [_unlogical(one) for one in schema] if isinstance(schema, list) else schema


def _meaning(type_: Any) -> Any:
    while isinstance(type_, list) or (isinstance(type_, dict) and type_["type"] == "array"):
        type_ = type_[-1] if isinstance(type_, list) else type_["items"]
    return (type_.get("scale"), type_.get("logicalType")) if isinstance(type_, dict) else (None, None)
