"""Messages decoded one by one with reference libraries: Avro by fastavro, JSON by Python's own. Slow and independent.

Values come out as the dataset's wire form has them: scaled integers, microseconds, lists; null where a writer has no
such field.
"""

import io
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

import fastavro

from k2_dagster.errors import SchemaUnknown
from k2_dagster.kafka.registry import RegisteredSchema, Registry
from k2_dagster.schemas.declaration import PRICE_SCALE, SIZE_SCALE, Dataset, Field, FieldType

FRAME_BYTES = 5
MICROSECONDS_PER_MILLISECOND = 1_000
_SCALES = {FieldType.PRICE: PRICE_SCALE, FieldType.SIZE: SIZE_SCALE}
_LISTS = (FieldType.STRINGS, FieldType.LEVELS)
# What fastavro and json raise at damaged bytes
_DECODE_ERRORS = (ValueError, TypeError, KeyError, IndexError, EOFError, ArithmeticError, StopIteration, MemoryError)

# Levels of a field's value that are read. A dataset's own fields have three; others may have any number, and the parser
# stops at a thousand.
DEEPEST_LEVEL = 32
# No field holds a number with more of them before its point; one of a billion is not even made.
LONG_DIGITS = 19
_JSON_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)

Record = dict[str, Any]


class Undecodable(Exception):
    """A message that is no record of its dataset; the text says why."""


@dataclass(frozen=True, slots=True)
class _Writer:
    """How one schema id is read: its record, then what makes a value of each field (None: it is as it should be)."""

    read: Callable[[bytes], Any]
    fields: Sequence[tuple[str, Any, Callable[[Any], Any] | None]]


class WireDecoder:
    """Decodes framed messages of one dataset. Raises RegistryUnavailable, and Undecodable for a bad message."""

    def __init__(self, dataset: Dataset, registry: Registry) -> None:
        self._dataset = dataset
        self._registry = registry
        self._writers: dict[int, _Writer] = {}

    def decode(self, value: bytes | None) -> Record:
        """The message's wire fields by name."""
        if value is None or len(value) < FRAME_BYTES or value[0] != 0:
            raise Undecodable("the value has no Confluent header")
        writer = self._writer(int.from_bytes(value[1:FRAME_BYTES], "big"))
        try:
            found = writer.read(value[FRAME_BYTES:])
            return {
                name: missing if found.get(name) is None else found[name] if make is None else make(found[name])
                for name, missing, make in writer.fields
            }
        except _DECODE_ERRORS as error:
            raise Undecodable(f"{type(error).__name__}: {error}") from error

    def _writer(self, schema_id: int) -> _Writer:
        if schema_id not in self._writers:
            try:
                self._writers[schema_id] = _writer(self._registry.schema(schema_id), self._dataset)
            except SchemaUnknown as error:
                raise Undecodable(error.message) from error
        return self._writers[schema_id]


def _fields(
    dataset: Dataset, attributes: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, Any, Callable[[Any], Any] | None]]:
    return [
        (field.name, [] if field.type in _LISTS else None, _maker(field, attributes.get(field.name, {})))
        for field in dataset.wire_fields
    ]


def _maker(field: Field, about: Mapping[str, Any]) -> Callable[[Any], Any] | None:
    """What makes a value of the wire form from the writer's; None where they are the same."""
    if field.type in _SCALES:
        return _scale_maker(about, _SCALES[field.type])
    if field.type is FieldType.TIMESTAMP and about.get("logicalType") == "timestamp-millis":
        return partial(operator.mul, MICROSECONDS_PER_MILLISECOND)
    return _level_maker(about) if field.type is FieldType.LEVELS else None


def _scale_maker(about: Mapping[str, Any], scale: int) -> Callable[[Any], Any] | None:
    is_ours = about.get("type") not in ("bytes", "fixed") and about.get("scale", scale) == scale
    return None if is_ours else partial(_scaled, about=about, scale=scale)


def _level_maker(about: Mapping[str, Any]) -> Callable[[Any], Any]:
    parts = _about_fields(about["items"])
    price = _scale_maker(parts["price"], PRICE_SCALE) or _same
    size = _scale_maker(parts["size"], SIZE_SCALE) or _same
    return lambda levels: [
        {"price": price(one["price"]), "size": size(one["size"]), "orders": one.get("orders")} for one in levels
    ]


def _same(value: Any) -> Any:
    return value


def _scaled(value: Any, about: Mapping[str, Any], scale: int) -> int:
    """A number in the writer's scale as an integer in ours; what does not fit exactly has no row to compare with."""
    if isinstance(value, bytes):
        value, written = int.from_bytes(value, "big", signed=True), int(about.get("scale", 0))
    else:
        written = int(about.get("scale", scale))
    whole, rest = divmod(int(value) * int(10**scale), int(10**written))
    if rest:
        raise ValueError(f"{value} in scale {written} does not fit scale {scale}")
    return whole


def _writer(schema: RegisteredSchema, dataset: Dataset) -> _Writer:
    try:
        body = json.loads(schema.text)
        if schema.kind == "JSON":
            return _Writer(_read_json, _fields(dataset, _about_fields(body)))
        parsed = fastavro.parse_schema(_without_logical_types(body))
        return _Writer(partial(_read_avro, parsed), _fields(dataset, _about_fields(body)))
    except (*_DECODE_ERRORS, fastavro.schema.SchemaParseException) as error:
        raise Undecodable(f"schema {schema.id} is no record schema: {error}") from error


def _read_avro(schema: Any, payload: bytes) -> Any:
    stream = io.BytesIO(payload)
    record = fastavro.schemaless_reader(stream, schema, None)
    if stream.tell() != len(payload):
        raise ValueError(f"{len(payload) - stream.tell()} bytes behind the record")
    return record


def _read_json(payload: bytes) -> Any:
    try:
        record = json.loads(payload, parse_float=_whole)
    except RecursionError:
        record = json.loads(_shallow(payload), parse_float=_whole)
    if not isinstance(record, dict):
        raise TypeError(f"a JSON {type(record).__name__}, not an object")
    return record


def _shallow(payload: bytes) -> bytes:
    """The document with null for whatever is nested below DEEPEST_LEVEL."""
    kept: list[bytes] = []
    level, copied = 0, 0
    for mark in _JSON_MARKS.finditer(payload):
        if mark[0] in (b"[", b"{"):
            level += 1
            if level == DEEPEST_LEVEL + 1:
                kept += [payload[copied : mark.start()], b"null"]
        elif mark[0] in (b"]", b"}"):
            if level == DEEPEST_LEVEL + 1:
                copied = mark.end()
            level -= 1
    return b"".join([*kept, payload[copied:]])


def _whole(digits: str) -> int | float:
    """JSON Schema counts 1.0 as an integer. Exactly what is written: beyond 2^53 a float is another number."""
    number = Decimal(digits)
    within = number.adjusted() < LONG_DIGITS
    return int(number) if within and number == int(number) else float(digits)


def _about_fields(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a record's schema, Avro or JSON, says of the type of each field."""
    if "properties" in record:
        return dict(record["properties"])
    return {one["name"]: _about(one) for one in record["fields"]}


def _about(field: Mapping[str, Any]) -> Mapping[str, Any]:
    """Scale and logical type of a field: attributes of its type, of the type that is not null in a union."""
    branches = field["type"] if isinstance(field["type"], list) else [field["type"]]
    return next((one for one in branches if isinstance(one, dict)), {})


def _without_logical_types(schema: Any) -> Any:
    """Numbers stay the integers that they are on the wire."""
    if isinstance(schema, list):
        return [_without_logical_types(one) for one in schema]
    if isinstance(schema, dict):
        return {key: _without_logical_types(one) for key, one in schema.items() if key != "logicalType"}
    return schema
