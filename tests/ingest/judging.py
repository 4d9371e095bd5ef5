"""Judging rows that a test can describe in a line, whole and split into batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from k2_dagster.ingest import kernel
from k2_dagster.ingest.numbering import Numbering
from tests.ingest.oracle import Event, Row

# So far beyond the last number that no row comes there which is not meant to.
REACH = (10**9, 10**9)


def judge(
    numbering: Numbering, rows: Sequence[Row], grace_messages: int, grace_ms: int, far: tuple[int, int] = REACH
) -> tuple[list[int], list[Event]]:
    """Verdicts and events. `far` is as the judge takes it: of dense keys, and of sparse ones."""
    keys = [
        numbering.key_index(row.key, start=row.start, sparse=row.sparse)
        if row.flag not in (kernel.UNREADABLE, kernel.SKIPPED)
        else kernel.NONE
        for row in rows
    ]
    symbols = [kernel.NONE if row.symbol is None else numbering.symbol_index(row.symbol) for row in rows]

    def column(values: list[Any], dtype: type) -> Any:
        return np.array(values, dtype=dtype)

    judged = numbering.judge(
        kernel.Rows(
            column(keys, np.int32),
            column([row.sequence for row in rows], np.int64),
            column([row.previous for row in rows], np.int64),
            column([row.flag for row in rows], np.int8),
            column(symbols, np.int32),
            column([row.partition for row in rows], np.int32),
            column([row.offset for row in rows], np.int64),
            column([row.time_ms for row in rows], np.int64),
            column([row.micros for row in rows], np.int64),
        ),
        grace_messages=grace_messages,
        grace_ms=grace_ms,
        reach=far,
    )
    assert sorted(judged.jumps) == np.flatnonzero(judged.verdicts == kernel.JUMP).tolist()
    events = [
        (
            *(rows[one.row].offset, one.kind, one.key, one.first, one.last, one.origin),
            *(one.opened_offset, one.before_micros, one.after_micros),
        )
        for one in judged.events
    ]
    return judged.verdicts.tolist(), events


def judge_split(
    rows: list[Row], cuts: set[int], grace_messages: int, grace_ms: int, far: tuple[int, int] = REACH
) -> tuple[Numbering, list[int], list[Event]]:
    """Judge the rows in batches that end at the cuts, with the state going through bytes in between."""
    numbering = Numbering()
    verdicts: list[int] = []
    events: list[Event] = []
    ends = [*sorted(cut for cut in cuts if 0 < cut < len(rows)), len(rows)]
    for start, end in zip([0, *ends], ends, strict=False):
        numbering = Numbering.load(numbering.dump())
        more_verdicts, more_events = judge(numbering, rows[start:end], grace_messages, grace_ms, far)
        verdicts += more_verdicts
        events += more_events
    return numbering, verdicts, events


def missing(numbering: Numbering) -> set[tuple[Any, int, bool]]:
    return {
        (key, number, bool(explained))
        for key, first, last, explained in numbering.open_holes()
        for number in range(first, last + 1)
    }


def dense(sequences: Sequence[int], *, start: int = kernel.NEVER) -> list[Row]:
    """Good messages of one dense key, one a millisecond."""
    key = (0, "A")
    return [
        Row(key, number, number - 1, kernel.GOOD, (0, "A"), 0, offset, offset, start=start)
        for offset, number in enumerate(sequences)
    ]


def unexplained(numbering: Numbering) -> int:
    return sum(not explained for *_, explained in numbering.open_holes())


def state_of(numbering: Numbering) -> Any:
    """The state whatever the order in which keys and symbols were first seen."""
    numbers = {
        key: [int(column[at]) for column in numbering._columns.values()] for at, key in enumerate(numbering.keys)
    }
    holes = sorted(
        (repr(numbering.keys[key]), *others)
        for key, *others in zip(*(column.tolist() for column in numbering._holes.values()), strict=True)
    )
    count = len(numbering.symbols)
    names = zip(*(column[:count].tolist() for column in numbering._symbol_columns.values()), strict=True)
    symbols = dict(zip(numbering.symbols, names, strict=True))
    columns = {key: (*values[:5], numbering.symbols[values[5]], *values[6:]) for key, values in numbers.items()}
    return columns, holes, symbols, numbering._partition_ms.tolist()


def received(numbering: Numbering) -> dict[Any, tuple[int, ...]]:
    """Of each key with a good message: first number, times of the first and the last, late ones, duplicates."""
    names = ("first", "first_micros", "last_micros", "late", "duplicates")
    found = {key: tuple(int(numbering._columns[name][at]) for name in names) for at, key in enumerate(numbering.keys)}
    return {key: values for key, values in found.items() if values[0] != kernel.NEVER}
