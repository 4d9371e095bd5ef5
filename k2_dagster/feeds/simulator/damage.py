"""Damage to the bytes of a message: each kind is certain to be seen, and its key stays as it was."""

from k2_dagster.feeds.encode import FRAME_MAGIC
from k2_dagster.feeds.simulator.truth import DAMAGES

FRAME_BYTES = 5
_NOT_MAGIC = b"{"


def damaged(value: bytes, damage: int, foreign_schema_id: int) -> bytes:
    """`damage`: 1 + the place in DAMAGES. `foreign_schema_id`: a registered schema of another dataset."""
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
