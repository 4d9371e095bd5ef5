"""Where the first of a duplicate is, when it came in the same batch: its offset, and whether the bytes are equal."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest.columns import combine
from k2_dagster.ingest.refusal import Refusal
from k2_dagster.ingest.tracker import Input
from k2_dagster.kafka.batch import RawBatch

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class First:
    """The message that landed: its offset, and whether its value has the same bytes as the duplicate's."""

    offset: int
    same_bytes: bool


def first_seen(raw: RawBatch, rows: Input, landed: npt.NDArray[np.bool_], refusals: list[Refusal]) -> dict[int, First]:
    """Row of a duplicate -> its first, for duplicates whose first landed in this batch."""
    found = [one.row for one in refusals if one.reason == "duplicate"]
    numbered = [row for row in found if rows.by_venue[row] or rows.has_publisher[row]]
    firsts = _by_number(rows, landed, np.array(numbered, dtype=np.int64)) if numbered else {}
    firsts |= _by_original(rows, landed, set(found) - set(numbered))
    return {
        row: First(int(raw.offset[first]), raw.values[first].as_py() == raw.values[row].as_py())
        for row, first in firsts.items()
    }


def _by_original(rows: Input, landed: npt.NDArray[np.bool_], duplicates: set[int]) -> dict[int, int]:
    """Of messages without a number that came back from quarantine, by where they were first refused."""
    landed_at = {(int(rows.partition[row]), original): row for row, original in rows.originals.items() if landed[row]}
    found = {row: landed_at.get((int(rows.partition[row]), rows.originals[row])) for row in duplicates}
    return {row: first for row, first in found.items() if first is not None}


def _by_number(rows: Input, landed: npt.NDArray[np.bool_], duplicates: Int64s) -> dict[int, int]:
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
    wanted = zip(duplicates.tolist(), identity[len(candidates) :], strict=True)
    return {row: firsts[key] for row, key in wanted if key in firsts}


def optional_offsets(firsts: dict[int, First], rows: list[int]) -> pa.Array:
    """`first_offset` column for the given rows."""
    return pa.array([firsts[row].offset if row in firsts else None for row in rows], pa.int64())
