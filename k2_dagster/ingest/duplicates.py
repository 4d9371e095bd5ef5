"""Where the first of a duplicate is, when it came in the same batch: its offset, and whether the bytes are equal."""

from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest.columns import Codes, combine
from k2_dagster.ingest.fixed import fixed
from k2_dagster.ingest.refusal import Refusal
from k2_dagster.ingest.tracker import Input
from k2_dagster.kafka.batch import RawBatch

Int64s = npt.NDArray[np.int64]

# Rows are told apart from the duplicates' firsts by these many cells, some ten per duplicate of a bad batch; the few
# that fall into one by chance are compared. A power of two.
_CELLS = 65_536
# Numbers of one symbol are dense: those of the next begin elsewhere.
_SYMBOL_STEP = 7_919


@dataclass(frozen=True, slots=True)
class First:
    """The message that landed: its offset, and whether its value has the same bytes as the duplicate's."""

    offset: int
    same_bytes: bool


def first_seen(
    raw: RawBatch,
    rows: Input,
    landed: npt.NDArray[np.bool_],
    refusals: list[Refusal],
    copied: Iterable[int] = (),
) -> dict[int, First]:
    """Row of a duplicate -> its first, for duplicates whose first landed in this batch. `copied` are those that their
    number in a channel shows."""
    found = {one.row for one in refusals if one.reason == "duplicate"}
    in_channel = found.intersection(copied)
    numbered = {row for row in found - in_channel if rows.by_venue[row] or rows.has_publisher[row]}
    firsts = _by_original(rows, landed, found - in_channel - numbered)
    if numbered:
        number = np.where(rows.by_venue, rows.sequence, rows.publisher_sequence)
        columns = [rows.stream, rows.kind, rows.session, rows.symbol, rows.publisher_session]
        firsts |= _by_number(rows, number, columns, landed, numbered)
    if in_channel:
        assert rows.channel is not None and rows.in_channel is not None  # noqa: PT018
        columns = [rows.stream, rows.kind, rows.session, rows.channel, rows.symbol]
        firsts |= _by_number(rows, rows.sequence, columns, landed & rows.in_channel, in_channel)
    return {
        row: First(int(raw.offset[first]), raw.values[first].as_py() == raw.values[row].as_py())
        for row, first in firsts.items()
    }


def _by_original(rows: Input, landed: npt.NDArray[np.bool_], duplicates: set[int]) -> dict[int, int]:
    """Of messages without a number that came back from quarantine, by where they were first refused."""
    landed_at = {(int(rows.partition[row]), original): row for row, original in rows.originals.items() if landed[row]}
    found = {row: landed_at.get((int(rows.partition[row]), rows.originals[row])) for row in duplicates}
    return {row: first for row, first in found.items() if first is not None}


def _by_number(
    rows: Input, number: Int64s, columns: list[Codes], landed: npt.NDArray[np.bool_], found: set[int]
) -> dict[int, int]:
    duplicates = np.array(sorted(found), dtype=np.int64)
    cells = alike(fixed(number), fixed(rows.symbol.indices), fixed(landed), fixed(duplicates))
    candidates = np.flatnonzero(cells)
    concerned = np.concatenate([candidates, duplicates])
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


@numba.njit(cache=True, nogil=True)
def alike(numbers, symbols, landed, duplicates):  # type: ignore[no-untyped-def]
    """Landed rows that may be a duplicate's first: number and symbol fall into a cell that one of them falls into."""
    taken = np.zeros(_CELLS, dtype=np.bool_)
    for row in duplicates:
        taken[(numbers[row] + _SYMBOL_STEP * symbols[row]) & (_CELLS - 1)] = True
    out = np.zeros(len(numbers), dtype=np.bool_)
    for row in range(len(numbers)):
        out[row] = landed[row] and taken[(numbers[row] + _SYMBOL_STEP * symbols[row]) & (_CELLS - 1)]
    return out


def optional_offsets(firsts: dict[int, First], rows: list[int]) -> pa.Array:
    """`first_offset` column for the given rows."""
    return pa.array([firsts[row].offset if row in firsts else None for row in rows], pa.int64())
