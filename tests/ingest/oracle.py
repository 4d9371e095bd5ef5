"""The sequence judge as plain sets of numbers, row by row: slow, and short enough to be believed."""

from dataclasses import dataclass, field, replace
from typing import Any

from k2_dagster.ingest import kernel

Event = tuple[int, int, Any, int, int, int, int, int, int]
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

    @property
    def micros(self) -> int:
        """The venue's time, which here is a little before Kafka's."""
        return 1_000 * self.time_ms - 7

    @property
    def numbers(self) -> list[int]:
        """Every number that the message stands for."""
        return list(range(self.previous + 1, self.sequence + 1))


@dataclass(eq=False)
class Gap:
    """Numbers that were missing when one row came. `unread`: unreadable messages that cannot be among them."""

    opened_offset: int
    opened_count: int
    opened_ms: int
    partition: int
    explained: bool
    unread: int
    before: int
    after: int


@dataclass
class KeyState:
    """`open` maps each missing number to its gap, `ahead` each refused number beyond the last one; `origin` maps each
    number of a reported gap to the gap's first; `refused` are the numbers that refused messages have claimed; `doubted`
    is the number that was too far ahead to be believed, and the last one then. What was received: from `first`, between
    `times`."""

    last: int
    sparse: bool
    symbol: Any
    count: int = 0
    used: int = 0
    unread: int = 0
    first: int | None = None
    times: tuple[int, int] = (kernel.NEVER, kernel.NEVER)
    late: int = 0
    duplicates: int = 0
    open: dict[int, Gap] = field(default_factory=dict)
    ahead: dict[int, Gap] = field(default_factory=dict)
    origin: dict[int, int] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    doubted: tuple[int, int] | None = None


REFUSED = (kernel.REFUSED, kernel.RETURNED_REFUSED)
RETURNED = (kernel.RETURNED, kernel.RETURNED_REFUSED)


class Oracle:
    """Judges one row after the other."""

    def __init__(self, grace_messages: int, grace_ms: int, far: tuple[int, int]) -> None:
        self.grace_messages, self.grace_ms = grace_messages, grace_ms
        self.far, self.far_sparse = far
        self.keys: dict[Any, KeyState] = {}
        self.bad: dict[Any, int] = {}
        self.known: set[Any] = set()
        self.now: dict[int, int] = {}
        self.verdicts: list[int] = []
        self.events: list[Event] = []
        self.jumps: dict[int, int] = {}

    def judge(self, row: Row) -> None:
        """Note the verdict and the events of a row."""
        before = self.now.get(row.partition)
        now = self.now[row.partition] = row.time_ms if before is None else max(before, row.time_ms)
        if before is not None and now // kernel.DAY_MS > before // kernel.DAY_MS:
            strangers = [one for one in self.bad if one[0] == row.partition and one not in self.known]
            self.bad.update(dict.fromkeys(strangers, 0))
        verdict = kernel.IN_ORDER
        if row.flag == kernel.UNREADABLE:
            if row.symbol is not None:
                self.bad[row.symbol] = self.bad.get(row.symbol, 0) + 1
        elif row.flag != kernel.SKIPPED:
            self.known.add(row.symbol)
            state = self.keys.setdefault(row.key, KeyState(row.start, row.sparse, row.symbol))
            refused = row.flag in REFUSED
            if self._is_jump(row, state, now):
                verdict = kernel.IN_ORDER if refused else kernel.JUMP
            else:
                state.count += 1
                verdict = self._refuse(row, state, now) if refused else self._land(row, state, now)
                self._absorb(state)
            for piece in self._pieces(state, reported=False):
                if state.count - state.open[piece[0]].opened_count >= self.grace_messages:
                    self._tell(row, row.key, piece)
        self.verdicts.append(verdict)
        self._tell_overdue(row, now)

    def open_numbers(self) -> set[tuple[Any, int, bool]]:
        """(key, number, explained by quarantine) of everything that is missing or was refused ahead of its time."""
        return {
            (key, number, gap.explained)
            for key, state in self.keys.items()
            for number, gap in (state.open | state.ahead).items()
        }

    def _is_jump(self, row: Row, state: KeyState, now: int) -> bool:
        """Whether its number is out of reach, and not borne out by the one that was out of reach before it."""
        reach = self.far_sparse if state.sparse else self.far
        if state.last == kernel.NEVER or row.sequence - state.last <= reach or not row.numbers:
            return False
        before = state.doubted[0] if state.doubted is not None and state.doubted[1] == state.last else None
        if row.flag not in RETURNED and before is not None and 0 < abs(row.sequence - before) <= reach:
            state.ahead.setdefault(before, self._gap(row, state, now, explained=True))
            state.refused.add(before)
            return False
        if row.flag not in REFUSED:
            self.jumps[row.offset] = state.last
        if row.flag not in RETURNED:
            state.used -= row.sequence != before
            state.doubted = (row.sequence, state.last)
        return True

    def _refuse(self, row: Row, state: KeyState, now: int) -> int:
        """Its numbers are in quarantine: those that are missing are explained, those to come will not be missed."""
        came = row.sequence in state.refused or (row.sequence <= state.last and row.sequence not in state.open)
        pieces = [*self._pieces(state, reported=True), *self._pieces(state, reported=False)]
        for piece in sorted(pieces, reverse=True):
            refused = [number for number in piece if number in row.numbers]
            if refused and refused[0] in state.origin:
                self._event(row, kernel.EXPLAIN, row.key, refused[0], refused[-1], piece[0])
            state.open.update({number: replace(state.open[number], explained=True) for number in refused})
            state.refused.update(refused)
        gap = self._gap(row, state, now, explained=True)
        state.ahead.update({number: gap for number in row.numbers if number > state.last and number not in state.ahead})
        state.refused.update(state.ahead)
        return kernel.DUPLICATE if came else kernel.IN_ORDER

    def _land(self, row: Row, state: KeyState, now: int) -> int:
        last = state.last
        verdict = kernel.DUPLICATE if row.sequence <= last else kernel.IN_ORDER
        if row.sequence in state.open or row.previous < last < row.sequence:
            verdict = self._fill(row, state)
        if row.sequence <= last:
            state.late += verdict == kernel.LATE
            state.duplicates += verdict == kernel.DUPLICATE
            return verdict
        for number in row.numbers:
            state.ahead.pop(number, None)
        if row.previous > last:
            self._miss(row, state, now)
        state.last = row.sequence
        state.unread = self._unread(state)
        state.times = (row.micros if state.first is None else state.times[0], row.micros)
        state.first = row.numbers[0] if state.first is None else state.first
        return kernel.IN_ORDER

    def _miss(self, row: Row, state: KeyState, now: int) -> None:
        missing = range(max(0, state.last + 1), row.previous + 1)
        if state.last == kernel.NEVER:
            # before the first number that is seen any may still come
            state.open.update(dict.fromkeys(missing, self._gap(row, state, now, explained=True)))
            state.ahead = {number: gap for number, gap in state.ahead.items() if number > row.previous}
            state.refused = set(state.ahead)
            return
        unseen = [number for number in missing if number not in state.ahead]
        size = len(runs(unseen)) if state.sparse else len(unseen)
        explained = size <= self._unread(state) - state.unread
        if explained:
            state.used += size
        state.open.update(dict.fromkeys(unseen, self._gap(row, state, now, explained=explained)))
        # past now, as everything below this row's numbers
        state.open.update({number: state.ahead.pop(number) for number in missing if number in state.ahead})

    def _absorb(self, state: KeyState) -> None:
        while state.last != kernel.NEVER and state.last + 1 in state.ahead:
            state.last += 1
            state.open[state.last] = state.ahead.pop(state.last)

    def _gap(self, row: Row, state: KeyState, now: int, *, explained: bool) -> Gap:
        return Gap(row.offset, state.count, now, row.partition, explained, state.unread, state.times[1], row.micros)

    def _unread(self, state: KeyState) -> int:
        return self.bad.get(state.symbol, 0) - state.used

    def _fill(self, row: Row, state: KeyState) -> int:
        arrived = [number for number in row.numbers if number in state.open]
        pieces = [*self._pieces(state, reported=True), *self._pieces(state, reported=True, explained=True)]
        for piece in sorted(pieces, reverse=True):
            filled = [number for number in piece if number in arrived]
            if filled:
                explained = state.open[filled[0]].explained
                kind = kernel.FILL_EXPLAINED if explained else kernel.FILL
                self._event(row, kind, row.key, filled[0], filled[-1], piece[0])
        for number in arrived:
            del state.open[number]
        return kernel.LATE if arrived else kernel.DUPLICATE

    def _pieces(self, state: KeyState, *, reported: bool, explained: bool = False) -> list[Piece]:
        """Runs of numbers that are missing since the same row, highest first."""
        pieces: list[Piece] = []
        for number in sorted(state.open):
            gap = state.open[number]
            if gap.explained != explained or (number in state.origin) != reported:
                continue
            if pieces and pieces[-1][-1] == number - 1 and self._together(state, number):
                pieces[-1].append(number)
            else:
                pieces.append([number])
        return pieces[::-1]

    def _together(self, state: KeyState, number: int) -> bool:
        same_row = state.open[number - 1].opened_offset == state.open[number].opened_offset
        return same_row and state.origin.get(number - 1) == state.origin.get(number)

    def _tell(self, row: Row, key: Any, piece: Piece) -> None:
        """The grace of these numbers is over: a gap, unless unreadable messages explain them by their count."""
        state = self.keys[key]
        size = 1 if state.sparse else len(piece)
        if size <= self._unread(state) - state.open[piece[0]].unread:
            state.used += size
            state.open.update({number: replace(state.open[number], explained=True) for number in piece})
            return
        state.origin.update(dict.fromkeys(piece, piece[0]))
        self._event(row, kernel.REPORT, key, piece[0], piece[-1], piece[0])

    def _tell_overdue(self, row: Row, now: int) -> None:
        waiting = [
            (gap.opened_offset, -piece[0], key, piece)
            for key, state in self.keys.items()
            for piece in self._pieces(state, reported=False)
            for gap in [state.open[piece[0]]]
            if gap.partition == row.partition and now >= gap.opened_ms + self.grace_ms
        ]
        for _, _, key, piece in sorted(waiting, key=lambda one: one[:2]):
            self._tell(row, key, piece)

    def _event(self, row: Row, kind: int, key: Any, first: int, last: int, number: int) -> None:
        state = self.keys[key]
        gap = state.open[number]
        place = (gap.opened_offset, gap.before, gap.after)
        self.events.append((row.offset, kind, key, first, last, state.origin[number], *place))


def runs(numbers: list[int]) -> list[Piece]:
    """Consecutive numbers together."""
    out: list[Piece] = []
    for number in numbers:
        if out and out[-1][-1] == number - 1:
            out[-1].append(number)
        else:
            out.append([number])
    return out
