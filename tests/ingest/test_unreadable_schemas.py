"""A schema that is registered but cannot be read costs its messages; one that is not known yet costs nothing, with the
place of the message that waits for it."""

import json
from contextlib import closing
from typing import Any

import pytest

from k2_dagster.errors import RegistryUnavailable, SchemaUnknown
from k2_dagster.ingest.decode import DETAIL_CHARACTERS, Decoder
from k2_dagster.kafka.registry import RegisteredSchema, Registry
from k2_dagster.schemas.datasets import WIRE_DATASETS
from tests.ingest.conftest import Exchange
from tests.ingest.helpers import AVRO_ID, Schemas, Sent, avro, framed, raw_batch, registry_of

TICKS = WIRE_DATASETS["ticks"]
ODD_ID = 4711
DEEP = "[" * 5_000 + "]" * 5_000
REFERENCE = json.dumps({"type": "record", "name": "T", "fields": [{"name": "price", "type": "com.example.Price"}]})
SOMETHING_ELSE = json.dumps({"type": "array", "items": "string"})


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("PROTOBUF", 'syntax = "proto3"; message Tick { string symbol = 1; }'),
        ("THRIFT", "struct Tick {}"),
        ("AVRO", "no JSON"),
        ("AVRO", ""),
        ("AVRO", '"long"'),
        ("AVRO", '{"type": "record"}'),
        ("AVRO", '{"type": "record", "name": "T", "fields": 7}'),
        ("AVRO", REFERENCE),
        ("AVRO", SOMETHING_ELSE),
        ("AVRO", DEEP),
        ("JSON", "no JSON"),
        ("JSON", "[]"),
        ("JSON", '{"type": "object", "properties": 7}'),
        ("JSON", '{"$ref": "other.json"}'),
        ("JSON", DEEP),
    ],
)
def test_messages_of_an_unreadable_schema_are_refused_and_their_neighbours_are_not(kind: str, text: str) -> None:
    known = {**registry_of(TICKS), ODD_ID: RegisteredSchema(ODD_ID, kind, text)}
    values = [avro(TICKS), framed(ODD_ID, b"\x08abcd"), avro(TICKS, sequence=2)]
    decoded = Decoder(TICKS, Schemas(known)).decode(
        raw_batch("t", [Sent(one, offset=at) for at, one in enumerate(values)])
    )
    assert decoded.rows.tolist() == [0, 2]
    ((row, reason, detail),) = [(one.row, one.reason, one.detail) for one in decoded.refusals]
    assert (row, reason) == (1, "schema_not_for_topic")
    assert f"schema {ODD_ID}" in detail
    assert len(detail) < DETAIL_CHARACTERS + 50


@pytest.mark.parametrize("error", [SchemaUnknown, RegistryUnavailable])
def test_a_schema_that_cannot_be_looked_up_is_an_error_with_its_place(error: type[Exception]) -> None:
    def lookup(schema_id: int) -> RegisteredSchema:
        if schema_id != AVRO_ID:
            raise error("it is not there", advice="wait", schema_id=schema_id)  # type: ignore[call-arg]
        return registry_of(TICKS)[schema_id]

    sent = [Sent(avro(TICKS), 1, 40), Sent(framed(ODD_ID, b"x"), 3, 17), Sent(framed(ODD_ID, b"y"), 2, 5)]
    with pytest.raises(error, match=r"^t partition 3 offset 17: it is not there\n  -> wait") as raised:
        Decoder(TICKS, lookup).decode(raw_batch("t", sent))
    fields: dict[str, Any] = raised.value.fields  # type: ignore[attr-defined]
    assert fields == {"schema_id": ODD_ID, "topic": "t", "partition": 3, "offset": 17}


@pytest.mark.stack
def test_a_message_of_an_unreadable_schema_does_not_stop_its_stream(exchange: Exchange) -> None:
    """A real registry keeps it, as it keeps everybody's schemas."""
    with closing(Registry(exchange.settings)) as registry:
        answer = registry._call(
            "POST",
            f"/subjects/{exchange.name}-other/versions",
            {"schema": 'syntax = "proto3"; message Other { string x = 1; }', "schemaType": "PROTOBUF"},
        )
        found = registry.schema(int(answer["id"]))
    assert found.kind == "PROTOBUF"
    exchange.publish([exchange.tick(), framed(found.id, b"\x0a\x01x"), exchange.tick()])
    report = exchange.drain()
    assert (report.rows, report.quarantined) == (2, 1)
    (row,) = exchange.landed("quarantine")
    assert (row["reason"], row["kafka_offset"]) == ("schema_not_for_topic", 1)
    assert "PROTOBUF" in row["detail"]
