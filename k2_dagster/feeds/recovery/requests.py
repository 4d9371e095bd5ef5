"""Requests as messages of `market.recovery.{exchange}`: made of a gap, and read again."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import fastavro
import orjson
import pyarrow as pa

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.encode import FRAME_MAGIC
from k2_dagster.feeds.recovery.deciding import request_id
from k2_dagster.feeds.recovery.source import MissingRange
from k2_dagster.kafka.registry import RegisteredSchema, Registry
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.control import NO_SYMBOL
from k2_dagster.schemas.declaration import FieldType
from k2_dagster.schemas.recovery import RECOVERY
from k2_dagster.state.times import to_micros

FRAME_BYTES = 5
CHANNEL = "channel"
_SCHEMA = wire_schema(RECOVERY)
_TYPES = {FieldType.STRING: str, FieldType.LONG: int, FieldType.INT: int, FieldType.TIMESTAMP: int}
# What damaged bytes raise in the decoders.
_DAMAGE = (ValueError, EOFError, LookupError, TypeError, OverflowError, MemoryError)


@dataclass(frozen=True, slots=True)
class Request:
    """What a worker has to know of a request."""

    request_id: str
    gap_id: int
    attempt: int
    requested_by: str
    reason: str


def missing_range(gap: Mapping[str, Any]) -> MissingRange:
    """All numbers of a gap (a row of `k2.gaps`)."""
    is_channel = gap["numbering"] == CHANNEL
    return MissingRange(
        exchange=gap["exchange"],
        dataset=gap["dataset"],
        stream=gap["stream"],
        session=gap["session"],
        symbol="" if is_channel else gap["symbol"],
        channel=gap["channel"],
        first=gap["first_sequence"],
        last=gap["last_sequence"],
        before_micros=to_micros(gap["from_time"]),
        after_micros=to_micros(gap["to_time"]),
    )


def request_rows(gap: Mapping[str, Any], attempt: int, *, by: str, reason: str) -> pa.RecordBatch:
    """The request for a gap, as one row in wire form."""
    row = {
        "request_id": request_id(gap, attempt),
        "gap_id": gap["id"],
        "attempt": attempt,
        "exchange": gap["exchange"],
        "dataset": gap["dataset"],
        "stream": gap["stream"],
        "kind": gap["kind"] or None,
        "symbol": gap["symbol"] or NO_SYMBOL,
        "session": gap["session"] or None,
        "channel": gap["channel"] or None,
        "first_sequence": gap["first_sequence"],
        "last_sequence": gap["last_sequence"],
        "before_timestamp": to_micros(gap["from_time"]),
        "after_timestamp": to_micros(gap["to_time"]),
        "level": gap["level"],
        "requested_by": by,
        "reason": reason or None,
    }
    return pa.RecordBatch.from_pylist([row], schema=_SCHEMA)


def read_request(value: bytes | None, registry: Registry) -> Request:
    """Decode a message. Raises CaptureInvalid (it is no request), SchemaUnknown, and like the registry."""
    if value is None or len(value) < FRAME_BYTES or value[:1] != FRAME_MAGIC:
        raise CaptureInvalid("a message of the topic is not framed", advice="who publishes requests must frame them")
    schema = registry.schema(int.from_bytes(value[1:FRAME_BYTES], "big"))
    try:
        row = _decoded(schema, value[FRAME_BYTES:])
    except _DAMAGE as error:
        raise CaptureInvalid(
            f"a message cannot be decoded by its schema {schema.id}: {error}", advice="find its publisher by its key"
        ) from error
    for one in RECOVERY.wire_fields:
        found = row.get(one.name)
        if (found is None and one.required) or not (found is None or isinstance(found, _TYPES[one.type])):
            raise CaptureInvalid(f"{one.name} of a request was {found!r}", advice=f"valid: {one.doc}", field=one.name)
    return Request(row["request_id"], row["gap_id"], row["attempt"], row["requested_by"], row.get("reason") or "")


def _decoded(schema: RegisteredSchema, body: bytes) -> dict[str, Any]:
    if schema.kind == "JSON":
        found = orjson.loads(body)
    else:
        # the logical type of times is left aside: they are microseconds, as everywhere on the wire
        text = orjson.loads(schema.text)
        text["fields"] = [{**field, "type": _without_logical(field["type"])} for field in text["fields"]]
        found = fastavro.schemaless_reader(BytesIO(body), fastavro.parse_schema(text), None)
    if not isinstance(found, dict):
        raise TypeError(f"it is {type(found).__name__}, not a record")
    return found


def _without_logical(avro_type: Any) -> Any:
    if isinstance(avro_type, list):
        return [_without_logical(one) for one in avro_type]
    return avro_type["type"] if isinstance(avro_type, dict) and "logicalType" in avro_type else avro_type
