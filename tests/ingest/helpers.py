"""Messages that a test can describe in a line, encoded as publishers encode them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa

from k2_dagster.errors import SchemaUnknown
from k2_dagster.kafka.batch import RawBatch
from k2_dagster.kafka.registry import RegisteredSchema
from k2_dagster.schemas.avro import avro_schema, avro_schema_text
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.declaration import Dataset, FieldType
from k2_dagster.schemas.json_schema import json_schema_text
from k2_dagster.schemas.profiles import ExchangeProfile, StreamProfile
from k2_dagster.schemas.refused import Refused, VenueIdentity, refused_headers

EXCHANGE = "testex"
START_MICROS = 1_767_225_600_000_000  # 2026-01-01
AVRO_ID, JSON_ID, OLD_ID, FOREIGN_ID = 7, 300, 70_000, 9
ONE = 100_000_000  # a price or size of 1

_DEFAULTS: Mapping[str, Any] = {
    "exchange": EXCHANGE,
    "symbol": "A",
    "exchange_timestamp": START_MICROS,
    "price": 5 * ONE,
    "size": 2 * ONE,
    "side": "buy",
    "action": "delta",
}


def record(dataset: Dataset, **values: Any) -> dict[str, Any]:
    """A good record of a dataset; a name that it does not have is a mistake in the test."""
    unknown = [name for name in values if name not in dataset]
    assert not unknown, unknown
    filled = {**_DEFAULTS, "stream": f"{dataset.name}_stream", "kind": dataset.kinds[0]}
    lists = (FieldType.STRINGS, FieldType.LEVELS)
    return {
        one.name: values.get(one.name, filled.get(one.name, [] if one.type in lists else None))
        for one in dataset.wire_fields
    }


def framed(schema_id: int, body: bytes) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + body


def avro(dataset: Dataset, schema_id: int = AVRO_ID, schema: Any = None, **values: Any) -> bytes:
    """One Avro message; `schema` is the writer's, if it is not the declared one."""
    body = BytesIO()
    given = record(dataset, **values) if schema is None else values
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema or avro_schema(dataset)), given)
    return framed(schema_id, body.getvalue())


def in_json(dataset: Dataset, schema_id: int = JSON_ID, **values: Any) -> bytes:
    """One JSON message."""
    return framed(schema_id, json.dumps(record(dataset, **values)).encode())


def binary(values: Iterable[bytes | None]) -> pa.BinaryArray:
    return pa.array(list(values), pa.binary())


@dataclass(frozen=True)
class Sent:
    """One message in its partition."""

    value: bytes | None
    partition: int = 0
    offset: int = 0
    time_ms: int = START_MICROS // 1000
    key: bytes | None = b"testex.A"
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)


def raw_batch(topic: str, sent: Sequence[Sent], positions: Mapping[int, int] | None = None) -> RawBatch:
    """The messages as a reader hands them over."""
    behind = {one.partition: one.offset + 1 for one in sent}
    return RawBatch(
        topic,
        np.array([one.partition for one in sent], np.int32),
        np.array([one.offset for one in sent], np.int64),
        np.array([one.time_ms for one in sent], np.int64),
        binary(one.key for one in sent),
        binary(one.value for one in sent),
        {row: one.headers for row, one in enumerate(sent) if one.headers},
        behind if positions is None else positions,
    )


def refused(symbol: str, number: int, sequence: int | None = None) -> list[tuple[str, bytes | None]]:
    """Headers of a message that a feed handler refused: its publisher number, and the venue's if that is known."""
    identity = VenueIdentity("ticks_stream", "trade", symbol, sequence=sequence)
    told = refused_headers(Refused("why", identity, "p", number, "x:1"))
    return [(name, value if isinstance(value, bytes) else None) for name, value in told]


def profile(**streams: str) -> ExchangeProfile:
    """An exchange with streams `ticks="dense"`, named `ticks_stream`."""
    return ExchangeProfile(
        title="Test",
        asset_class="crypto",
        calendar="24/7",
        timezone="UTC",
        entitlement_class="test",
        partitions=2,
        streams={
            f"{dataset}_stream": StreamProfile.model_validate({"dataset": dataset, "domain": domain})
            for dataset, domain in streams.items()
        },
        gap_grace_messages=4,
        gap_grace_seconds=5,
        on_critical_gap="mark_stale",
    )


OLD_TICKS: dict[str, Any] = {
    "type": "record",
    "name": "OldTick",
    "fields": [
        {"name": "venue_flag", "type": ["null", "string"], "default": None},
        *({"name": name, "type": "string"} for name in ("exchange", "stream", "kind", "symbol")),
        {"name": "side", "type": {"type": "enum", "name": "Side", "symbols": ["buy", "sell", "unknown"]}},
        {"name": "sequence", "type": "int"},
        {"name": "exchange_timestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "price", "type": {"type": "long", "scale": 2}},
        {"name": "size", "type": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 10}},
    ],
}


def old_tick(**values: Any) -> bytes:
    """A tick in an older form: other order, other scales, an enum, a decimal, fields missing and one too many."""
    given = {
        "venue_flag": "x",
        "exchange": EXCHANGE,
        "stream": "ticks_stream",
        "kind": "trade",
        "symbol": "A",
        "side": "sell",
        "sequence": 1,
        "exchange_timestamp": START_MICROS // 1000,
        "price": 500,
        "size": (2 * 10**10).to_bytes(8, "big", signed=True),
        **values,
    }
    return avro(WIRE_DATASETS["ticks"], OLD_ID, _bare(OLD_TICKS), **given)


def _bare(schema: Any) -> Any:
    """Without logical types, which fastavro would convert."""
    if isinstance(schema, dict):
        return {key: _bare(value) for key, value in schema.items() if key != "logicalType"}
    return [_bare(one) for one in schema] if isinstance(schema, list) else schema


def registry_of(dataset: Dataset) -> dict[int, RegisteredSchema]:
    """Schemas by id: the declared Avro and JSON forms, an older one, and one that is of something else."""
    foreign = json.dumps({"type": "record", "name": "Other", "fields": [{"name": "weather", "type": "string"}]})
    return {
        AVRO_ID: RegisteredSchema(AVRO_ID, "AVRO", avro_schema_text(dataset)),
        JSON_ID: RegisteredSchema(JSON_ID, "JSON", json_schema_text(dataset)),
        OLD_ID: RegisteredSchema(OLD_ID, "AVRO", json.dumps(OLD_TICKS)),
        FOREIGN_ID: RegisteredSchema(FOREIGN_ID, "AVRO", foreign),
    }


@dataclass
class Schemas:
    """Looks schemas up, as a registry does."""

    known: dict[int, RegisteredSchema]

    def __call__(self, schema_id: int) -> RegisteredSchema:
        if schema_id not in self.known:
            raise SchemaUnknown(f"no schema {schema_id}", schema_id=schema_id)
        return self.known[schema_id]
