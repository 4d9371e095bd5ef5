"""What may change in a message schema, and what may not."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

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
