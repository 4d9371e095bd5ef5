"""A day of one symbol as a row of cells, as a person sees it. Pure.

A cell shows the worst that is in it: a gap before a hold, a hold before what came.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from k2_dagster.coverage.complete import Answer, Evidence, Missing, bounded, held_in, judge, missing_in
from k2_dagster.coverage.spans import Span, overlaps, without

# Worst first.
Cell = Literal["gap", "halted", "deferred", "outside", "filled", "received", "closed"]
CELLS: tuple[Cell, ...] = get_args(Cell)


@dataclass(frozen=True, slots=True)
class Counts:
    """Of the sessions that the range touches, whole: messages judged, those out of order, those that came again; and
    messages that were reported missing in the range and came."""

    messages: int
    out_of_order: int
    duplicates: int
    late_filled: int


@dataclass(frozen=True, slots=True)
class Strip:
    """A symbol of a stream over a range: the answer, and a cell for each part of it of equal length."""

    exchange: str
    dataset: str
    stream: str
    symbol: str
    answer: Answer
    cells: tuple[Cell, ...]
    counts: Counts

    @property
    def trouble(self) -> int:
        """For sorting: the place of its worst cell in CELLS."""
        return min(CELLS.index(cell) for cell in self.cells)


def strip_of(
    named: tuple[str, str, str, str], evidence: Evidence, whole: Span, micros: int, counted: tuple[int, int, int]
) -> Strip:
    """`named` are exchange, dataset, stream and symbol; `counted` messages, out of order and duplicates."""
    evidence = bounded(evidence)
    filled = sum(one.count for one in evidence.missing if _was_filled(one, whole))
    answer, cells = judge(evidence, whole), cells_of(evidence, whole, micros)
    return Strip(*named, answer, cells, Counts(*counted, filled))


def cells_of(evidence: Evidence, whole: Span, micros: int) -> tuple[Cell, ...]:
    """The cells of a range, each `micros` long."""
    return tuple(_cell(evidence, (start, min(start + micros, whole[1]))) for start in range(*whole, micros))


def _cell(evidence: Evidence, cell: Span) -> Cell:
    if evidence.basis is not None and missing_in(evidence, cell):
        return "gap"
    held = held_in(evidence, cell)
    if held:
        return held[0].kind
    if any(overlaps(one.span, cell) for one in evidence.extents):
        return "filled" if any(_was_filled(one, cell) for one in evidence.missing) else "received"
    return "outside" if without(cell, evidence.closed) else "closed"


def _was_filled(one: Missing, span: Span) -> bool:
    if one.state != "filled" or one.from_micros is None or one.to_micros is None:
        return False
    return overlaps((min(one.from_micros, one.to_micros), max(one.from_micros, one.to_micros) + 1), span)
