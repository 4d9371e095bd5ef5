"""Messages decoded by the reference libraries come out in wire form, or as undecodable."""

import io
import json
from typing import Any

import fastavro
import pytest

from k2_dagster.errors import SchemaUnknown
from k2_dagster.kafka.registry import RegisteredSchema, Registry
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.book import BOOK
from k2_dagster.schemas.json_schema import json_schema_text
from k2_dagster.schemas.ticks import TICKS
from k2_dagster.settings import Settings
from k2_dagster.verify.wire import Undecodable, WireDecoder

FOREIGN = json.dumps(
    {
        "type": "record",
        "name": "T",
        "fields": [
            {"name": "symbol", "type": "string"},
            {"name": "exchange_timestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "price", "type": {"type": "long", "scale": 2}},
            {"name": "size", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 3}},
            {"name": "other", "type": "double"},
        ],
    }
)


class Schemas(Registry):
    """A registry that knows what it is told."""

    def __init__(self, **texts: Any) -> None:
        super().__init__(Settings())
        self.texts = texts

    def schema(self, schema_id: int) -> RegisteredSchema:
        if str(schema_id) not in self.texts:
            raise SchemaUnknown(f"no schema {schema_id}")
        kind, text = self.texts[str(schema_id)]
        return RegisteredSchema(schema_id, kind, text)


def framed(schema_id: int, payload: bytes) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + payload


def avro(text: str, record: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(json.loads(text)), record)
    return stream.getvalue()


TICK = {
    "exchange": "x",
    "stream": "s",
    "kind": "trade",
    "symbol": "A",
    "exchange_timestamp": 1_700_000_000_000_001,
    "price": 123,
    "size": 2**62,
    "side": "buy",
}


def test_a_message_of_ours_keeps_its_integers() -> None:
    text = avro_schema_text(TICKS)
    found = WireDecoder(TICKS, Schemas(**{"1": ("AVRO", text)})).decode(framed(1, avro(text, TICK)))
    assert found == {field.name: None for field in TICKS.wire_fields} | {"conditions": []} | TICK


def test_json_and_levels() -> None:
    record = {"symbol": "A", "bids": [{"price": 5, "size": 0}], "asks": None}
    schemas = Schemas(**{"1": ("JSON", json_schema_text(BOOK))})
    found = WireDecoder(BOOK, schemas).decode(framed(1, json.dumps(record).encode()))
    assert found["bids"] == [{"price": 5, "size": 0, "orders": None}]
    assert found["asks"] == []


@pytest.mark.parametrize("one", ['{"]": ', "["])
def test_a_field_of_others_may_be_nested_as_deeply_as_it_likes(one: str) -> None:
    levels = 200_000
    more = one * levels + r'"\"]"' + ("]" if one == "[" else "}") * levels
    decoder = WireDecoder(TICKS, Schemas(**{"1": ("JSON", json_schema_text(TICKS))}))
    body = json.dumps(TICK)[:-1]
    found = decoder.decode(framed(1, f'{body}, "more": {more}, "trade_id": "t"}}'.encode()))
    assert {name: found[name] for name in TICK} == TICK
    assert found["trade_id"] == "t"
    with pytest.raises(Undecodable):
        decoder.decode(framed(1, f'{body}, "more": {more[:-1]}, "trade_id": "t"}}'.encode()))


def test_a_foreign_schema_is_rescaled_exactly() -> None:
    record = {"symbol": "A", "exchange_timestamp": 1_700_000_000_001, "price": 1234, "other": 1.0}
    stream = io.BytesIO()
    bare = json.loads(FOREIGN)
    bare["fields"][3]["type"] = "bytes"
    fastavro.schemaless_writer(
        stream, fastavro.parse_schema(bare), {**record, "size": (-1500).to_bytes(2, "big", signed=True)}
    )
    found = WireDecoder(TICKS, Schemas(**{"1": ("AVRO", FOREIGN)})).decode(framed(1, stream.getvalue()))
    assert found["exchange_timestamp"] == 1_700_000_000_001_000
    assert found["price"] == 12_34 * 10**6
    assert found["size"] == -1_500 * 10**5


@pytest.mark.parametrize(
    "value",
    [None, b"", b"{}", framed(2, b""), framed(1, b"\x02"), framed(1, avro(avro_schema_text(TICKS), TICK) + b"!")],
    ids=["null", "empty", "not framed", "unknown schema", "cut off", "trailing byte"],
)
def test_damage_is_undecodable(value: bytes | None) -> None:
    decoder = WireDecoder(TICKS, Schemas(**{"1": ("AVRO", avro_schema_text(TICKS))}))
    with pytest.raises(Undecodable):
        decoder.decode(value)
