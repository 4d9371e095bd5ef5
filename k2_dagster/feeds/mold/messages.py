"""What a message of a line is: a byte that names its dataset, and the row in Avro, by the column in both directions.

Session, channel, number and the times of receiving are not in it: the packet's header and the receiver tell them. The
byte is itself Avro (an int below 64 is one byte, its double), so it costs no copy of the message.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro
from numpy.typing import NDArray

from k2_dagster.errors import ConfigurationError
from k2_dagster.schemas.arrow import TIMESTAMP, wire_schema
from k2_dagster.schemas.avro import avro_schema
from k2_dagster.schemas.datasets import dataset_named

Int64s = NDArray[np.int64]

# For ever: a new dataset takes a new one.
TAGS: Mapping[str, int] = {"ticks": 1, "quotes": 2, "book": 3}
# What the header of a packet and the receiver tell.
TOLD_ELSEWHERE = (
    "exchange", "session", "channel", "sequence", "previous_sequence", "publisher_session", "publisher_sequence",
    "receive_timestamp", "receive_timestamp_nanos", "publish_timestamp",
)  # fmt: skip
_TAG_FIELD = "_dataset_tag"
_DATASETS = {2 * tag: dataset for dataset, tag in TAGS.items()}
_REASON_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Decoded:
    """`rows` by dataset: the places of its messages, and the rows in wire form (what is told elsewhere is null).
    `refused`: place of each message that is none, and why."""

    rows: dict[str, tuple[Int64s, pa.RecordBatch]]
    refused: dict[int, str]


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows came: exchange, channel, the session and number of each, and when each was received (microseconds)."""

    exchange: str
    channel: str
    sessions: pa.Array
    sequences: Int64s
    received_micros: Int64s


def encode_messages(dataset: str, rows: pa.RecordBatch) -> pa.BinaryArray:
    """One message per row in wire form. Raises ConfigurationError for a dataset that lines do not carry."""
    if dataset not in TAGS:
        raise ConfigurationError(f"dataset was {dataset!r}", advice=f"lines carry {', '.join(TAGS)}", dataset=dataset)
    names, text = _form(dataset)
    tags = pa.array(np.full(rows.num_rows, TAGS[dataset], np.int32))
    columns = [rows.column(name) for name in names]
    tagged = pa.RecordBatch.from_arrays([tags, *columns], names=[_TAG_FIELD, *names])
    return pyruhvro.serialize_record_batch(tagged, text, 1)[0] if rows.num_rows else pa.array([], pa.binary())


def decode_messages(messages: Sequence[bytes]) -> Decoded:
    """Whatever the bytes are; a message counts only if its row gives exactly these bytes again."""
    first = np.array([message[0] if message else 0 for message in messages], np.int64)
    decoded = Decoded({}, {})
    for tag in np.unique(first).tolist():
        places = np.flatnonzero(first == tag)
        dataset = _DATASETS.get(tag)
        if dataset is None:
            valid = ", ".join(str(one) for one in _DATASETS)
            decoded.refused.update(dict.fromkeys(places.tolist(), f"no dataset has the byte {tag}; valid: {valid}"))
            continue
        pieces: list[tuple[Int64s, pa.RecordBatch]] = []
        _decode(dataset, places, [messages[place] for place in places.tolist()], pieces, decoded.refused)
        if pieces:
            at = np.concatenate([where for where, _ in pieces])
            decoded.rows[dataset] = at, pa.concat_batches([rows for _, rows in pieces])
    return decoded


def placed(rows: pa.RecordBatch, place: Place) -> pa.RecordBatch:
    """The rows with what is told elsewhere; without publisher pair."""
    size = rows.num_rows
    known = {
        "exchange": pa.repeat(place.exchange, size),
        "channel": pa.repeat(place.channel, size),
        "session": place.sessions,
        "sequence": pa.array(place.sequences),
        "receive_timestamp": pa.array(place.received_micros).view(TIMESTAMP),
    }
    columns = [known.get(one.name, column) for one, column in zip(rows.schema, rows.columns, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)


def _decode(
    dataset: str,
    places: Int64s,
    messages: list[bytes],
    pieces: list[tuple[Int64s, pa.RecordBatch]],
    refused: dict[int, str],
) -> None:
    """By halves where something in it cannot be decoded: one bad message costs itself."""
    _, text = _form(dataset)
    try:
        batch = pyruhvro.deserialize_array(messages, text)
        batch.validate(full=True)
        again = pyruhvro.serialize_record_batch(batch, text, 1)[0]
        rows = _as_rows(dataset, batch)
    except (ValueError, OverflowError, pa.ArrowException) as error:
        if len(messages) == 1:
            refused[int(places[0])] = " ".join(f"{type(error).__name__}: {error}".split())[:_REASON_CHARACTERS]
            return
        half = len(messages) // 2
        _decode(dataset, places[:half], messages[:half], pieces, refused)
        _decode(dataset, places[half:], messages[half:], pieces, refused)
        return
    same = pc.equal(again, pa.array(messages, pa.binary()))
    exact = same.to_numpy(zero_copy_only=False)
    if not exact.all():
        refused.update(dict.fromkeys(places[~exact].tolist(), "the bytes are not those of the row that they give"))
        rows = rows.filter(same)
    if rows.num_rows:
        pieces.append((places[exact], rows))


def _as_rows(dataset: str, batch: pa.RecordBatch) -> pa.RecordBatch:
    schema = wire_schema(dataset_named(dataset))
    columns = [
        batch.column(one.name).cast(one.type) if one.name in batch.schema.names else pa.nulls(batch.num_rows, one.type)
        for one in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@cache
def _form(dataset: str) -> tuple[list[str], str]:
    """Names of the columns in a message, and its Avro schema."""
    schema = avro_schema(dataset_named(dataset))
    fields = [one for one in schema["fields"] if one["name"] not in TOLD_ELSEWHERE]
    tagged = [{"name": _TAG_FIELD, "type": "int"}, *fields]
    return [one["name"] for one in fields], json.dumps({**schema, "fields": tagged})
