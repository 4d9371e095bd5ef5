"""Arrow rows to framed messages, by the column: no Python object is made per field.

A framed message is a zero byte, the schema id (four bytes, big-endian), and the record (Confluent's wire format).
"""

import json
from typing import Any, Protocol

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro

from k2_dagster.errors import ConfigurationError
from k2_dagster.schemas.topics import message_key

FRAME_MAGIC = b"\0"
# The header is itself Avro: a false boolean is one zero byte, and a float is four bytes as they stand. As two leading
# fields of the record it costs nothing, where joining it on afterwards would copy every message.
_MAGIC_FIELD, _ID_FIELD = "_frame_magic", "_frame_schema_id"


class Encoder(Protocol):
    """Turns rows of one schema into framed messages."""

    schema_id: int

    def encode(self, rows: pa.RecordBatch) -> pa.BinaryArray:
        """One framed message per row, in order.

        Raises ConfigurationError naming the field when a column is missing, has another type, or is null where the
        schema allows no null.
        """
        ...


class AvroEncoder:
    """Avro records in Confluent framing."""

    def __init__(self, schema_text: str, schema_id: int) -> None:
        self.schema_id = schema_id
        schema = json.loads(schema_text)
        self._fields: list[dict[str, Any]] = schema["fields"]
        header = [{"name": _MAGIC_FIELD, "type": "boolean"}, {"name": _ID_FIELD, "type": "float"}]
        self._framed_schema = json.dumps({**schema, "fields": header + self._fields})
        self._id_as_float = np.frombuffer(schema_id.to_bytes(4, "big"), np.float32)

    def encode(self, rows: pa.RecordBatch) -> pa.BinaryArray:
        """See `Encoder`. A null list is written as an empty one."""
        for field in self._fields:
            _refuse_nulls(field["type"], _column(rows, field["name"]), field["name"])
        size = rows.num_rows
        if not size:
            return pa.array([], pa.binary())
        magic, schema_id = pa.array(np.zeros(size, np.bool_)), pa.array(np.repeat(self._id_as_float, size))
        framed = pa.RecordBatch.from_arrays(
            [magic, schema_id, *rows.columns], names=[_MAGIC_FIELD, _ID_FIELD, *rows.schema.names]
        )
        try:
            return pyruhvro.serialize_record_batch(framed, self._framed_schema, 1)[0]
        except ValueError as error:
            raise ConfigurationError(
                f"rows do not fit their Avro schema: {error}",
                advice="rows must have the columns and types of schemas.arrow.wire_schema",
            ) from error


class JsonEncoder:
    """JSON documents in Confluent framing: times as integer microseconds, nulls left out. For modest rates."""

    def __init__(self, schema_text: str, schema_id: int) -> None:
        self.schema_id = schema_id
        self._required: list[str] = json.loads(schema_text)["required"]
        self._header = FRAME_MAGIC + schema_id.to_bytes(4, "big")

    def encode(self, rows: pa.RecordBatch) -> pa.BinaryArray:
        """See `Encoder`."""
        for name in self._required:
            _refuse_nulls("", _column(rows, name), name)
        plain = pa.RecordBatch.from_arrays([_plain(one) for one in rows.columns], names=rows.schema.names)
        documents = [
            self._header + orjson.dumps({name: value for name, value in row.items() if value is not None})
            for row in plain.to_pylist()
        ]
        return pa.array(documents, pa.binary())


def message_keys(exchange: str, symbols: pa.Array) -> list[bytes]:
    """Key of each row's message; one object per distinct symbol."""
    encoded = symbols.dictionary_encode()
    keys = [message_key(exchange, symbol) for symbol in encoded.dictionary.to_pylist()]
    return [keys[code] for code in encoded.indices.to_pylist()]


def _column(rows: pa.RecordBatch, name: str) -> pa.Array:
    if name not in rows.schema.names:
        raise ConfigurationError(
            f"rows have no column {name!r}", advice=f"they have: {', '.join(rows.schema.names)}", field=name
        )
    return rows.column(name)


def _plain(column: pa.Array) -> pa.Array:
    return pc.cast(column, pa.int64()) if pa.types.is_timestamp(column.type) else column


def _refuse_nulls(avro_type: Any, values: pa.Array, path: str) -> None:
    # The encoder writes a null as 0 where the schema has no null: a price of 0 that nobody sent.
    if isinstance(avro_type, list):
        return
    kind = avro_type["type"] if isinstance(avro_type, dict) else avro_type
    if kind == "array":
        _refuse_nulls(avro_type["items"], values.flatten(), f"{path}[]")
        return
    if values.null_count:
        raise ConfigurationError(
            f"{path} was null in {values.null_count} of {len(values)} rows", advice="it must have a value", field=path
        )
    if kind == "record":
        for field in avro_type["fields"]:
            _refuse_nulls(field["type"], values.field(field["name"]), f"{path}.{field['name']}")
