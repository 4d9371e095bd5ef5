"""The sequence judge as plain sets of numbers, row by row: slow, and short enough to be believed."""

from dataclasses import dataclass, field
from typing import Any

from k2_dagster.ingest import kernel

Event = tuple[int, int, Any, int, int, int, int]
Piece = list[int]


@dataclass(frozen=True)
class Row:
    """One message, as a numbering sees it."""

    key: Any
    sequence: int
    previous: int
    flag: int
    symbol: Any
    partition: int
    offset: int
    time_ms: int
    sparse: bool = False
    start: int = kernel.NEVER


@dataclass(eq=False)
class Gap:
    """Numbers that were missing when one row came."""

    opened_offset: int
    opened_count: int
    opened_ms: int
    partition: int
    explained: bool


@dataclass
class KeyState:
    """`open` maps each missing number to its gap, `origin` each reported one to the first number of its report."""

    last: int
    sparse: bool
    count: int = 0
    bad_seen: int = 0
    open: dict[int, Gap] = field(default_factory=dict)
    origin: dict[int, int] = field(default_factory=dict)


class Oracle:
    """Judges one row after the other."""

    def __init__(self, grace_messages: int, grace_ms: int) -> None:
        self.grace_messages, self.grace_ms = grace_messages, grace_ms
        self.keys: dict[Any, KeyState] = {}
        self.bad: dict[Any, int] = {}
        self.now: dict[int, int] = {}
        self.verdicts: list[int] = []
        self.events: list[Event] = []

    def judge(self, row: Row) -> None:
        """Note the verdict and the events of a row."""
        now = self.now[row.partition] = max(self.now.get(row.partition, row.time_ms), row.time_ms)
        verdict = kernel.IN_ORDER
        if row.flag == kernel.UNREADABLE:
            if row.symbol is not None:
                self.bad[row.symbol] = self.bad.get(row.symbol, 0) + 1
        elif row.flag != kernel.SKIPPED:
            state = self.keys.setdefault(row.key, KeyState(row.start, row.sparse))
            verdict = self._judge(row, state, now)
            for piece in self._pieces(state):
                gap = state.open[piece[0]]
                if state.count - gap.opened_count >= self.grace_messages:
                    self._report(row, row.key, piece)
        self.verdicts.append(verdict)
        self._report_overdue(row, now)

    def open_numbers(self) -> set[tuple[Any, int, bool]]:
        """(key, number, explained by quarantine) of everything that is missing."""
        return {(key, number, gap.explained) for key, state in self.keys.items() for number, gap in state.open.items()}

    def _judge(self, row: Row, state: KeyState, now: int) -> int:
        if row.flag == kernel.REFUSED:
            if state.last != kernel.NEVER and row.previous == state.last and row.sequence > state.last:
                state.count += 1
                self._open(row, state, row.sequence, now, explained=True)
                state.last = row.sequence
            elif row.sequence > state.last:
                self.bad[row.symbol] = self.bad.get(row.symbol, 0) + 1
            return kernel.IN_ORDER
        state.count += 1
        if row.sequence <= state.last:
            return self._fill(row, state)
        if row.previous > state.last:
            size = 1 if state.sparse else row.previous - state.last
            explained = state.last == kernel.NEVER or size <= self.bad.get(row.symbol, 0) - state.bad_seen
            self._open(row, state, row.previous, now, explained=explained)
        state.last = row.sequence
        state.bad_seen = self.bad.get(row.symbol, 0)
        return kernel.IN_ORDER

    def _open(self, row: Row, state: KeyState, last: int, now: int, *, explained: bool) -> None:
        gap = Gap(row.offset, state.count, now, row.partition, explained)
        state.open.update(dict.fromkeys(range(max(0, state.last + 1), last + 1), gap))

    def _fill(self, row: Row, state: KeyState) -> int:
        arrived = [number for number in range(row.previous + 1, row.sequence + 1) if number in state.open]
        for piece in self._pieces(state, reported=True):
            filled = [number for number in piece if number in arrived]
            if filled:
                self._event(row, kernel.FILL, row.key, filled[0], filled[-1], piece[0])
        for number in arrived:
            del state.open[number]
        return kernel.LATE if arrived else kernel.DUPLICATE

    def _pieces(self, state: KeyState, *, reported: bool = False) -> list[Piece]:
        """Runs of numbers missing since the same row, highest first; without those that quarantine explains."""
        pieces: list[Piece] = []
        for number in sorted(state.open):
            gap = state.open[number]
            if gap.explained or (number in state.origin) != reported:
                continue
            if pieces and pieces[-1][-1] == number - 1 and state.open[number - 1] is gap:
                pieces[-1].append(number)
            else:
                pieces.append([number])
        return pieces[::-1]

    def _report(self, row: Row, key: Any, piece: Piece) -> None:
        state = self.keys[key]
        state.origin.update(dict.fromkeys(piece, piece[0]))
        self._event(row, kernel.REPORT, key, piece[0], piece[-1], piece[0])

    def _report_overdue(self, row: Row, now: int) -> None:
        waiting = [
            (gap.opened_offset, -piece[0], key, piece)
            for key, state in self.keys.items()
            for piece in self._pieces(state)
            for gap in [state.open[piece[0]]]
            if gap.partition == row.partition and now >= gap.opened_ms + self.grace_ms
        ]
        for _, _, key, piece in sorted(waiting, key=lambda one: one[:2]):
            self._report(row, key, piece)

    def _event(self, row: Row, kind: int, key: Any, first: int, last: int, number: int) -> None:
        state = self.keys[key]
        opened_offset = state.open[number].opened_offset
        self.events.append((row.offset, kind, key, first, last, state.origin[number], opened_offset))
