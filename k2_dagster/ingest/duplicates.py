"""Where the first of a duplicate is, when it came in the same batch: its offset, and whether the bytes are equal."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest.columns import combine
from k2_dagster.ingest.refusal import Refusal
from k2_dagster.ingest.tracker import Input
from k2_dagster.kafka.batch import RawBatch


@dataclass(frozen=True, slots=True)
class First:
    """The message that landed: its offset, and whether its value has the same bytes as the duplicate's."""

    offset: int
    same_bytes: bool


def first_seen(raw: RawBatch, rows: Input, landed: npt.NDArray[np.bool_], refusals: list[Refusal]) -> dict[int, First]:
    """Row of a duplicate -> its first, for duplicates whose first landed in this batch."""
    duplicates = np.array([one.row for one in refusals if one.reason == "duplicate"], dtype=np.int64)
    if not len(duplicates):
        return {}
    number = np.where(rows.by_venue, rows.sequence, rows.publisher_sequence)
    # only rows that share a number with a duplicate can be its first
    candidates = np.flatnonzero(landed & np.isin(number, number[duplicates]))
    concerned = np.concatenate([candidates, duplicates])
    columns = [rows.stream, rows.kind, rows.session, rows.symbol, rows.publisher_session]
    places, _ = combine([column.take(concerned) for column in columns])
    identity = [
        (int(rows.partition[row]), place, int(number[row]))
        for row, place in zip(concerned.tolist(), places.tolist(), strict=True)
    ]
    firsts: dict[tuple[int, int, int], int] = {}
    for row, key in zip(candidates.tolist(), identity[: len(candidates)], strict=True):
        firsts.setdefault(key, row)
    out = {}
    for row, key in zip(duplicates.tolist(), identity[len(candidates) :], strict=True):
        first = firsts.get(key)
        if first is not None:
            same = raw.values[first].as_py() == raw.values[row].as_py()
            out[row] = First(int(raw.offset[first]), same)
    return out


def optional_offsets(firsts: dict[int, First], rows: list[int]) -> pa.Array:
    """`first_offset` column for the given rows."""
    return pa.array([firsts[row].offset if row in firsts else None for row in rows], pa.int64())
