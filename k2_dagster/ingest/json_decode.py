"""JSON messages to Arrow: whole windows by Arrow's reader, message by message where a window fails."""

import json
from collections.abc import Collection
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.json

from k2_dagster.ingest.avro_decode import FRAME_BYTES, Decoded, describe
from k2_dagster.ingest.avro_layout import Node
from k2_dagster.ingest.refusal import Refusal

WINDOW_ROWS = 16_384
SMALLEST_WINDOW_ROWS = 16
# Arrow's reader needs a whole message in one block.
MAX_BLOCK_BYTES = 64 * 1024 * 1024

# Arrow's reader takes these for numbers, also in fields that nobody asked for. In a text they are none: then the
# message goes the slow way.
NO_JSON = (b"NaN", b"Inf")

BEYOND_LONG = 2**64
SHOWN_CHARACTERS = 60

_KINDS = {"integer": ("long", pa.int64()), "string": ("string", pa.string()), "boolean": ("boolean", pa.bool_())}
_DECODE_ERRORS = (ValueError, TypeError, ArithmeticError, RecursionError, pa.ArrowException)


class JsonDecoder:
    """Decodes the messages of one schema id. Raises ValueError for a schema that cannot be read at all."""

    def __init__(self, schema_text: str, coded: Collection[str] = ()) -> None:
        """`coded` is for decoders that can code texts as they read them; this one cannot."""
        del coded
        self.layout = _node(json.loads(schema_text))
        if self.layout.kind != "record":
            raise ValueError(f"the schema describes a {self.layout.kind}, not an object")
        self._options = pyarrow.json.ParseOptions(
            explicit_schema=pa.schema(list(self.layout.arrow)), unexpected_field_behavior="ignore"
        )

    def decode(self, values: pa.BinaryArray) -> Decoded:
        """Decode framed messages (no nulls)."""
        pieces: list[tuple[npt.NDArray[np.int64], pa.Array]] = []
        refusals: list[Refusal] = []
        window, low = WINDOW_ROWS, 0
        while low < len(values):
            high = min(len(values), low + window)
            payloads = [one[FRAME_BYTES:] for one in values.slice(low, high - low).to_pylist()]
            records = self._window(payloads)
            if records is not None:
                pieces.append((np.arange(low, high, dtype=np.int64), records))
                window = min(WINDOW_ROWS, window * 2)
            elif window > SMALLEST_WINDOW_ROWS:
                window = max(SMALLEST_WINDOW_ROWS, window // 4)
                continue
            else:
                self._one_by_one(payloads, low, pieces, refusals)
            low = high
        if not pieces:
            return Decoded(pa.array([], self.layout.arrow), np.zeros(0, dtype=np.int64), refusals)
        records = pa.concat_arrays([records for _, records in pieces])
        return Decoded(records, np.concatenate([rows for rows, _ in pieces]), refusals)

    def _window(self, payloads: list[bytes]) -> pa.Array | None:
        # each payload is one object on one line, or lines and messages could be taken for one another
        if any(b"\n" in one or one[:1] != b"{" or one[-1:] != b"}" for one in payloads):
            return None
        text = b"\n".join(payloads)
        if any(word in text for word in NO_JSON):
            return None
        read = pyarrow.json.ReadOptions(use_threads=False, block_size=min(MAX_BLOCK_BYTES, len(text) + 1))
        try:
            text.decode()  # Arrow's reader lets text through that is not UTF-8
            table = pyarrow.json.read_json(pa.BufferReader(text), read_options=read, parse_options=self._options)
            if table.num_rows != len(payloads):
                return None
            records = pa.concat_arrays(table.to_struct_array().chunks).cast(self.layout.arrow)
        except (ValueError, pa.ArrowException):
            return None
        return records

    def _one_by_one(
        self,
        payloads: list[bytes],
        low: int,
        pieces: list[tuple[npt.NDArray[np.int64], pa.Array]],
        refusals: list[Refusal],
    ) -> None:
        for row, payload in enumerate(payloads, start=low):
            # as in a window of many, so that its neighbours do not decide what a message is
            alone = self._window([payload])
            if alone is not None:
                pieces.append((np.array([row], dtype=np.int64), alone))
                continue
            try:
                record = _read_as(self.layout, _loads(payload))
                pieces.append((np.array([row], dtype=np.int64), pa.array([record], self.layout.arrow)))
            except _DECODE_ERRORS as error:
                refusals.append(Refusal(row, "undecodable", describe(error)))


def _loads(payload: bytes) -> Any:
    """Numbers with a point stay what is written: a float would round some of them to integers."""
    orjson.loads(payload)  # stricter than the standard library: UTF-8, surrogates, NaN
    return json.loads(payload, parse_float=Decimal)


_PYTHON_TYPES: dict[str, Any] = {"long": int, "string": str, "boolean": bool, "array": list, "record": dict}


def _read_as(node: Node, value: Any) -> Any:
    """The value as its type in the schema; fields that the schema does not name are left out.

    JSON Schema counts 1.0 as an integer, Arrow does not and would cut 1.5 to 1. Raises TypeError for another type and
    for a number that is not exactly an integer.
    """
    if value is None:
        return None
    if node.kind == "long" and isinstance(value, Decimal) and abs(value) < BEYOND_LONG and value == int(value):
        value = int(value)
    if type(value) is not _PYTHON_TYPES[node.kind]:  # exactly: a boolean is an int in Python
        raise TypeError(f"{_shown(value)} is a JSON {type(value).__name__}; valid: {node.kind}")
    if node.kind == "array":
        return [_read_as(node.children[0][1], one) for one in value]
    if node.kind == "record":
        return {name: _read_as(child, value[name]) for name, child in node.children if name in value}
    return value


def _shown(value: Any) -> str:
    return repr(value)[:SHOWN_CHARACTERS]


def _node(schema: dict[str, Any]) -> Node:
    named = schema.get("type")
    types = [one for one in (named if isinstance(named, list) else [named]) if one != "null"]
    nullable = isinstance(named, list) and "null" in named
    if len(types) != 1:
        raise ValueError(f"type {named!r} cannot be read; valid: one type, or one type and null")
    if types[0] in _KINDS:
        kind, arrow = _KINDS[types[0]]
        return Node(kind, arrow, nullable, schema)
    if types[0] == "array":
        item = _node(schema["items"])
        return Node("array", pa.list_(pa.field("item", item.arrow)), nullable, schema, (("item", item),))
    if types[0] == "object":
        children = tuple((name, _node(one)) for name, one in schema.get("properties", {}).items())
        arrow = pa.struct([pa.field(name, child.arrow) for name, child in children])
        return Node("record", arrow, nullable, schema, children)
    raise ValueError(f"type {types[0]!r} cannot be read; valid: integer, string, boolean, array, object")
