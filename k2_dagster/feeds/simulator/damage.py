"""Damage to a message's bytes, or to a number of it: each kind is certain to be seen, and the key stays as it was."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from k2_dagster.feeds.encode import FRAME_MAGIC
from k2_dagster.feeds.simulator.truth import DAMAGES

FRAME_BYTES = 5
_NOT_MAGIC = b"{"
# Damages that are none of the bytes: the field of which the number is far ahead. Which, says who identifies a message.
FAR_NUMBERS = {len(DAMAGES) + 1: "sequence", len(DAMAGES) + 2: "publisher_sequence"}
# Far beyond what any stream believes at once, and so far apart that two spoiled numbers in a row do not look like the
# venue's own jump; below what a sequence may be at most.
_FAR, _APART, _PLACES = 10**16, 4 * 10**15, 800


def damage_of_number(*, by_venue: bool) -> int:
    """The damage of a number far ahead: of the venue's, or of the publisher's."""
    return len(DAMAGES) + (1 if by_venue else 2)


def with_far_numbers(rows: pa.RecordBatch, damage: NDArray[np.int64]) -> pa.RecordBatch:
    """The rows, in which the numbers that are to be damaged are far ahead."""
    for code, name in FAR_NUMBERS.items():
        spoiled = damage == code
        if spoiled.any():
            place = rows.schema.get_field_index(name)
            numbers = rows.column(place).fill_null(0).to_numpy()
            far = pa.array(np.where(spoiled, _FAR + _APART * (numbers % _PLACES), numbers), mask=_nulls(rows, place))
            rows = rows.set_column(place, rows.schema.field(place), far)
    return rows


def _nulls(rows: pa.RecordBatch, place: int) -> NDArray[np.bool_]:
    return np.asarray(rows.column(place).is_null())


def damaged(value: bytes, damage: int, foreign_schema_id: int) -> bytes:
    """`damage`: 1 + the place in DAMAGES, or one of a number, which leaves the bytes alone. `foreign_schema_id`: a
    registered schema of another dataset."""
    if damage in FAR_NUMBERS:
        return value
    kind = DAMAGES[damage - 1][0]
    header, record = value[:FRAME_BYTES], value[FRAME_BYTES:]
    if kind == "truncated":
        return header + record[: len(record) // 2]
    if kind == "flipped":
        # The record starts with the length of a string: its lowest bit makes it negative.
        return header + bytes([record[0] ^ 1]) + record[1:]
    if kind == "foreign_schema":
        return FRAME_MAGIC + foreign_schema_id.to_bytes(4, "big") + record
    return _NOT_MAGIC + value[1:]
