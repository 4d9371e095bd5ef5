"""What passes the rule for schema changes, over schemas of all kinds."""

import io
import json
from typing import Any

import fastavro
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.schemas.evolution import problems
from tests.schemas.test_evolution import Schema, changed, field

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
