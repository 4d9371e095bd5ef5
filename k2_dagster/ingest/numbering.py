"""One numbering (the venue's or the publisher's) of one topic: its keys, their last numbers and open holes.

Pure: `judge` depends on the state and the rows alone. `dump` and `load` carry the state across batches and processes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from k2_dagster.ingest import kernel
from k2_dagster.ingest.frames import framed, unframed

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Key = tuple[Any, ...]

_KEY_COLUMNS = ("last", "count", "floor", "bad_seen", "sparse")
_HOLE_COLUMNS = (
    "key",
    "first",
    "last",
    "opened_offset",
    "opened_count",
    "opened_ms",
    "partition",
    "cause",
    "reported",
    "origin",
)
_EVENT_COLUMNS = ("row", "kind", "key", "first", "last", "origin", "opened_offset")
# Rows that the key arrays grow by; each key is about 80 bytes.
_GROWTH_KEYS = 1_024
# Free places for holes that a batch starts with; they double when that is not enough. Room for a hole per row would be
# 50 MB to write for every batch, nearly always for nothing.
_GROWTH_HOLES = 16_384


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the judge, with its key's parts. `first`..`last` are the numbers concerned."""

    row: int
    kind: int
    key: Key
    first: int
    last: int
    origin: int
    opened_offset: int


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdict per row (see kernel.py) and the events in row order."""

    verdicts: npt.NDArray[np.int8]
    events: list[Event]


class Numbering:
    """State of one numbering. Keys are tuples whose first part is the partition."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self._index: dict[Key, int] = {}
        self._columns: dict[str, Int64s] = {name: np.zeros(0, dtype=np.int64) for name in _KEY_COLUMNS}
        self._holes: dict[str, Int64s] = {name: np.zeros(0, dtype=np.int64) for name in _HOLE_COLUMNS}
        self.symbols: list[Key] = []
        self._symbol_index: dict[Key, int] = {}
        self._symbol_bad = np.zeros(0, dtype=np.int64)
        self._partition_ms = np.zeros(0, dtype=np.int64)

    def key_index(self, key: Key, *, start: int, sparse: bool) -> int:
        """Index of a key, made at first sight. `start` is the number before its first (kernel.NEVER: any may come)."""
        found = self._index.get(key)
        if found is not None:
            return found
        at = len(self.keys)
        self.keys.append(key)
        self._index[key] = at
        if at >= len(self._columns["last"]):
            for name, column in self._columns.items():
                self._columns[name] = np.concatenate([column, np.zeros(_GROWTH_KEYS, dtype=np.int64)])
        self._columns["last"][at] = start
        self._columns["count"][at] = 0
        self._columns["floor"][at] = kernel.NEVER
        self._columns["bad_seen"][at] = 0
        self._columns["sparse"][at] = sparse
        return at

    def symbol_index(self, symbol: Key) -> int:
        """Index of a (partition, symbol), made at first sight."""
        found = self._symbol_index.get(symbol)
        if found is None:
            found = self._symbol_index[symbol] = len(self.symbols)
            self.symbols.append(symbol)
        return found

    def judge(self, rows: kernel.Rows, *, grace_messages: int, grace_ms: int) -> Judged:
        """Judge the rows and move the state on."""
        count = len(rows.key)
        self._grow(rows)
        holes = self._open_holes(room=_GROWTH_HOLES)
        keys = self._key_arrays(holes)
        queue = self._queue(holes, room=count + 1)
        events = _events(room=4 * count + 2 * len(self._holes["key"]) + 16)
        verdicts = np.zeros(count, dtype=np.int8)
        state = (self._symbol_bad, self._partition_ms)
        row = 0
        while row < count:
            row = kernel.judge(rows, row, keys, holes, queue, events, *state, grace_messages, grace_ms, verdicts)
            if row < count:
                holes = _with_room(holes, len(holes.key))
        self._close_holes(holes)
        return Judged(verdicts, self._read(events))

    def forget(self, doomed: set[int]) -> None:
        """Drop keys (by index) with their holes: their session is beyond the horizon."""
        if not doomed:
            return
        kept = [at for at in range(len(self.keys)) if at not in doomed]
        moved = np.full(len(self.keys), kernel.NONE, dtype=np.int64)
        moved[kept] = np.arange(len(kept))
        self.keys = [self.keys[at] for at in kept]
        self._index = {key: at for at, key in enumerate(self.keys)}
        self._columns = {name: column[kept] for name, column in self._columns.items()}
        alive = moved[self._holes["key"]] != kernel.NONE
        self._holes = {name: column[alive] for name, column in self._holes.items()}
        self._holes["key"] = moved[self._holes["key"]]

    def record_ms(self, partition: int) -> int:
        """The newest record time seen in a partition; kernel.NEVER before its first message."""
        return int(self._partition_ms[partition]) if partition < len(self._partition_ms) else kernel.NEVER

    def open_holes(self) -> list[tuple[Key, int, int, bool]]:
        """(key, first, last, explained by quarantine) of every open hole; for tests and status."""
        return [
            (self.keys[key], int(first), int(last), cause == kernel.QUARANTINED)
            for key, first, last, cause in zip(
                *(self._holes[name] for name in ("key", "first", "last", "cause")), strict=True
            )
        ]

    def _grow(self, rows: kernel.Rows) -> None:
        missing = len(self.symbols) - len(self._symbol_bad)
        self._symbol_bad = np.concatenate([self._symbol_bad, np.zeros(missing, dtype=np.int64)])
        partitions = int(rows.partition.max(initial=-1)) + 1
        if partitions > len(self._partition_ms):
            more = np.full(partitions - len(self._partition_ms), kernel.NEVER, dtype=np.int64)
            self._partition_ms = np.concatenate([self._partition_ms, more])

    def _open_holes(self, room: int) -> kernel.Holes:
        count = len(self._holes["key"])
        held = kernel.Holes(**self._holes, next=np.full(count, kernel.NONE, dtype=np.int64), free=np.zeros(1, np.int64))
        return _with_room(held, room)

    def _key_arrays(self, holes: kernel.Holes) -> kernel.Keys:
        size = len(self._columns["last"])
        head = np.full(size, kernel.NONE, dtype=np.int64)
        number = np.zeros(size, dtype=np.int64)
        waiting = np.zeros(size, dtype=np.int64)
        count = len(self._holes["key"])
        # kept in list order (newest first), so linking from the end restores each list
        for at in range(count - 1, -1, -1):
            key = holes.key[at]
            holes.next[at] = head[key]
            head[key] = at
            number[key] += 1
            waiting[key] += 1 - holes.reported[at]
        columns = self._columns
        return kernel.Keys(
            columns["last"],
            columns["count"],
            columns["floor"],
            columns["bad_seen"],
            head,
            number,
            waiting,
            columns["sparse"].astype(np.int8),
        )

    def _queue(self, holes: kernel.Holes, room: int) -> kernel.Queue:
        waiting = np.flatnonzero(self._holes["reported"] == 0)
        order = waiting[np.lexsort((self._holes["opened_offset"][waiting], self._holes["opened_ms"][waiting]))]
        size = len(order) + room
        queue = kernel.Queue(
            key=np.empty(size, dtype=np.int64),
            opened_offset=np.empty(size, dtype=np.int64),
            opened_ms=np.empty(size, dtype=np.int64),
            next=np.empty(size, dtype=np.int64),
            head=np.full(len(self._partition_ms), kernel.NONE, dtype=np.int64),
            tail=np.full(len(self._partition_ms), kernel.NONE, dtype=np.int64),
            used=np.zeros(1, dtype=np.int64),
        )
        for hole in order:
            kernel._enqueue(  # noqa: SLF001  (the compiled half of this module)
                queue, holes.partition[hole], holes.key[hole], holes.opened_offset[hole], holes.opened_ms[hole]
            )
        return queue

    def _close_holes(self, holes: kernel.Holes) -> None:
        alive = np.flatnonzero(holes.key != kernel.NONE)
        # list order within a key is by number, highest first; across keys any order will do
        order = alive[np.lexsort((-holes.first[alive], holes.key[alive]))]
        self._holes = {name: getattr(holes, name)[order].copy() for name in _HOLE_COLUMNS}

    def _read(self, events: kernel.Events) -> list[Event]:
        columns = [getattr(events, name)[: events.used[0]].tolist() for name in _EVENT_COLUMNS]
        return [
            Event(row, kind, self.keys[key], first, last, origin, opened_offset)
            for row, kind, key, first, last, origin, opened_offset in zip(*columns, strict=True)
        ]

    def dump(self) -> bytes:
        """The state as bytes (compressed Arrow). Equal states give equal bytes."""
        count = len(self.keys)
        parts = {
            "keys": pa.table(
                {
                    **{f"part_{place}": [key[place] for key in self.keys] for place in range(_width(self.keys))},
                    **{name: column[:count] for name, column in self._columns.items()},
                }
            ),
            "holes": pa.table(self._holes),
            "symbols": pa.table(
                {
                    "partition": pa.array([one[0] for one in self.symbols], pa.int64()),
                    "symbol": pa.array([one[1] for one in self.symbols], pa.string()),
                    "bad": self._padded_bad(),
                }
            ),
            "partitions": pa.table({"record_ms": self._partition_ms}),
        }
        return b"".join(framed(name, table) for name, table in parts.items())

    def _padded_bad(self) -> Int64s:
        missing = len(self.symbols) - len(self._symbol_bad)
        return np.concatenate([self._symbol_bad, np.zeros(missing, dtype=np.int64)])

    @classmethod
    def load(cls, data: bytes) -> "Numbering":
        """The state that `dump` wrote."""
        parts = dict(unframed(data))
        out = cls()
        keys = parts["keys"]
        width = sum(name.startswith("part_") for name in keys.column_names)
        columns = [keys[f"part_{place}"].to_pylist() for place in range(width)]
        out.keys = list(zip(*columns, strict=True))
        out._index = {key: at for at, key in enumerate(out.keys)}
        out._columns = {name: keys[name].to_numpy().copy() for name in _KEY_COLUMNS}
        out._holes = {name: parts["holes"][name].to_numpy().copy() for name in _HOLE_COLUMNS}
        symbols = parts["symbols"]
        out.symbols = list(zip(symbols["partition"].to_pylist(), symbols["symbol"].to_pylist(), strict=True))
        out._symbol_index = {one: at for at, one in enumerate(out.symbols)}
        out._symbol_bad = symbols["bad"].to_numpy().copy()
        out._partition_ms = parts["partitions"]["record_ms"].to_numpy().copy()
        return out


def _with_room(holes: kernel.Holes, room: int) -> kernel.Holes:
    """The same holes in arrays with `room` more places, all free."""
    count, height = len(holes.key), int(holes.free[0])
    arrays = {}
    for name in (*_HOLE_COLUMNS, "next"):
        arrays[name] = np.full(count + room, kernel.NONE, dtype=np.int64)
        arrays[name][:count] = getattr(holes, name)
    new = np.arange(count + room - 1, count - 1, -1)
    free = np.concatenate([[height + room], holes.free[1 : height + 1], new, np.zeros(count, dtype=np.int64)])
    return kernel.Holes(**arrays, free=free)


def _width(keys: list[Key]) -> int:
    return len(keys[0]) if keys else 0


def _events(room: int) -> kernel.Events:
    columns = {name: np.empty(room, dtype=np.int64) for name in _EVENT_COLUMNS}
    return kernel.Events(**columns, used=np.zeros(1, dtype=np.int64))
