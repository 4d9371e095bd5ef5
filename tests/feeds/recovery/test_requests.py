"""Requests go through both wire forms unharmed, and damage is told."""

import json
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.encode import AvroEncoder, JsonEncoder
from k2_dagster.feeds.recovery.deciding import request_id
from k2_dagster.feeds.recovery.requests import Request, missing_range, read_request, request_rows
from k2_dagster.kafka.registry import Kind, RegisteredSchema, Registry
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.evolution import problems
from k2_dagster.schemas.json_schema import json_schema_text
from k2_dagster.schemas.recovery import RECOVERY

AVRO_ID, JSON_ID = 7, 300
TEXTS: dict[int, tuple[Kind, str]] = {
    AVRO_ID: ("AVRO", avro_schema_text(RECOVERY)),
    JSON_ID: ("JSON", json_schema_text(RECOVERY)),
}
GAP: dict[str, Any] = {
    "id": 3, "exchange": "x", "dataset": "ticks", "stream": "trade", "kind": "trade", "symbol": "A", "session": "",
    "channel": "", "numbering": "venue", "level": "page", "first_sequence": 21, "last_sequence": 40, "topic_epoch": 1,
    "kafka_partition": 0, "opened_offset": 7, "from_time": datetime(2026, 1, 1, tzinfo=UTC), "to_time": None,
}  # fmt: skip


class Schemas:
    """A registry that knows both forms."""

    def schema(self, schema_id: int) -> RegisteredSchema:
        kind, text = TEXTS[schema_id]
        return RegisteredSchema(schema_id, kind, text)


REGISTRY = cast("Registry", Schemas())


def encoded(schema_id: int, gap: dict[str, Any], attempt: int, by: str = "me", reason: str = "") -> bytes:
    maker = AvroEncoder if schema_id == AVRO_ID else JsonEncoder
    rows = request_rows(gap, attempt, by=by, reason=reason)
    (value,) = maker(TEXTS[schema_id][1], schema_id).encode(rows).to_pylist()
    return bytes(value)


@pytest.mark.parametrize("schema_id", TEXTS)
@given(attempt=st.integers(1, 2**31 - 1), by=st.text(min_size=1), reason=st.text(), first=st.integers(0, 2**62))
def test_what_is_asked_is_read(schema_id: int, attempt: int, by: str, reason: str, first: int) -> None:
    gap = {**GAP, "first_sequence": first, "last_sequence": first}
    found = read_request(encoded(schema_id, gap, attempt, by, reason), REGISTRY)
    assert found == Request(request_id(gap, attempt), 3, attempt, by, reason)


@given(st.binary(max_size=200), st.sampled_from([AVRO_ID, JSON_ID]))
def test_garbage_is_refused_and_nothing_else_happens(body: bytes, schema_id: int) -> None:
    for value in (body, b"\0" + schema_id.to_bytes(4, "big") + body, None):
        try:
            found = read_request(value, REGISTRY)
        except (CaptureInvalid, KeyError):  # of a schema id that nobody knows
            continue
        assert isinstance(found, Request)


def test_a_field_of_another_type_is_named() -> None:
    value = b"\0" + JSON_ID.to_bytes(4, "big") + json.dumps({"request_id": "x", "gap_id": "three"}).encode()
    with pytest.raises(CaptureInvalid, match="gap_id of a request was 'three'"):
        read_request(value, REGISTRY)


def test_the_range_of_a_symbol_and_of_a_channel() -> None:
    found = missing_range(GAP)
    assert (found.symbol, found.channel, found.count) == ("A", "", 20)
    assert (found.before_micros, found.after_micros) == (1_767_225_600_000_000, None)
    channel = {**GAP, "numbering": "channel", "symbol": "*", "channel": "c", "dataset": "control"}
    assert (missing_range(channel).symbol, missing_range(channel).channel) == ("", "c")


def test_the_declaration_may_grow_by_optional_fields_only() -> None:
    for kind, text in TEXTS.values():
        assert problems(text, text, kind) == []
