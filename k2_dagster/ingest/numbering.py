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
from k2_dagster.ingest.fixed import fixed
from k2_dagster.ingest.room import EVENT_COLUMNS, HOLE_COLUMNS, events_with, put, with_room
from k2_dagster.state.frames import framed, unframed
from k2_dagster.state.tracked import with_columns

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Key = tuple[Any, ...]

_KEY_COLUMNS = (
    *("last", "messages", "floor", "unread", "used", "symbol", "sparse"),
    *("first", "first_micros", "last_micros", "late", "duplicates", "far", "far_last"),
)
_SYMBOL_COLUMNS = ("bad", "known", "partition")
# Most events: each hole is reported, explained and filled once, and a row cuts into two. Of a row come at most four
# holes (a gap, what stands behind a split, two cut ends), and a gap has a piece more for each stretch that was refused
# ahead, and for the number that was doubted; and a row may be a jump. Room that is not used is not touched, and costs
# nothing.
EVENTS_PER_ROW = 19
EVENTS_PER_HOLE = 6
# Free places for holes that a batch starts with; they double when that is not enough. Room for a hole per row would be
# 50 MB to write for every batch, nearly always for nothing.
_GROWTH_HOLES = 4_096


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the judge, with its key's parts. `first`..`last` are the numbers concerned, which lie between
    messages of the venue's times `before_micros` and `after_micros`."""

    row: int
    kind: int
    key: Key
    first: int
    last: int
    origin: int
    opened_offset: int
    before_micros: int
    after_micros: int


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdict per row (see kernel.py), the events in row order, and of each jump's row the last number before it."""

    verdicts: npt.NDArray[np.int8]
    events: list[Event]
    jumps: dict[int, int]


class Numbering:
    """State of one numbering. Keys are tuples whose first part is the partition."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self._index: dict[Key, int] = {}
        self._columns: dict[str, Int64s] = {name: np.zeros(0, dtype=np.int64) for name in _KEY_COLUMNS}
        self._holes: dict[str, Int64s] = {name: np.zeros(0, dtype=np.int64) for name in HOLE_COLUMNS}
        self.symbols: list[Key] = []
        self._symbol_index: dict[Key, int] = {}
        self._symbol_columns: dict[str, Int64s] = {name: np.zeros(0, dtype=np.int64) for name in _SYMBOL_COLUMNS}
        self._partition_ms = np.zeros(0, dtype=np.int64)

    def key_index(self, key: Key, *, start: int, sparse: bool) -> int:
        """Index of a key, made at first sight. Its last part is its symbol. `start` is the number before its first
        (kernel.NEVER: any may come)."""
        found = self._index.get(key)
        if found is not None:
            return found
        at = len(self.keys)
        self.keys.append(key)
        self._index[key] = at
        made = dict.fromkeys(("floor", "first", "first_micros", "last_micros", "far", "far_last"), kernel.NEVER)
        made |= {"last": start, "symbol": self.symbol_index((key[0], key[-1])), "sparse": sparse}
        put(self._columns, at, made)
        return at

    def symbol_index(self, symbol: Key) -> int:
        """Index of a (partition, symbol), made at first sight."""
        found = self._symbol_index.get(symbol)
        if found is None:
            found = self._symbol_index[symbol] = len(self.symbols)
            self.symbols.append(symbol)
            put(self._symbol_columns, found, {"partition": symbol[0]})
        return found

    def judge(self, rows: kernel.Rows, *, grace_messages: int, grace_ms: int, reach: tuple[int, int]) -> Judged:
        """Judge the rows and move the state on. `reach`: so far beyond the last number is believed, of dense keys and
        of sparse ones."""
        count = len(rows.key)
        rows = kernel.Rows(**{name: fixed(column) for name, column in rows._asdict().items()})
        self._grow(rows)
        holes = self._open_holes(room=_GROWTH_HOLES)
        keys = self._key_arrays(holes)
        queue = self._queue(holes, room=count + 1)
        events = events_with(room=EVENTS_PER_ROW * count + EVENTS_PER_HOLE * len(self._holes["key"]) + 16)
        verdicts = np.zeros(count, dtype=np.int8)
        symbols, partitions = self._symbol_arrays(), self._partition_arrays()
        row = 0
        while row < count:
            row = kernel.judge(
                *(rows, row, keys, holes, queue, events, symbols, partitions),
                *(grace_messages, grace_ms, reach, verdicts),
            )
            if row < count:
                holes = with_room(holes, len(holes.key))
        self._close_holes(holes)
        self._forget_strangers()
        told = self._read(events)
        jumps = {one.row: one.first for one in told if one.kind == kernel.JUMPED}
        return Judged(verdicts, [one for one in told if one.kind != kernel.JUMPED], jumps)

    def forget(self, doomed: set[int]) -> bytes:
        """Drop keys (by index) with their holes: their session is beyond the horizon. Returns what they held, in the
        form of `dump`; nothing of keys that have received nothing."""
        if not doomed:
            return b""
        told = self._told(np.array(sorted(doomed), dtype=np.int64))
        kept = [at for at in range(len(self.keys)) if at not in doomed]
        moved = np.full(len(self.keys), kernel.NONE, dtype=np.int64)
        moved[kept] = np.arange(len(kept))
        self.keys = [self.keys[at] for at in kept]
        self._index = {key: at for at, key in enumerate(self.keys)}
        self._columns = {name: column[kept] for name, column in self._columns.items()}
        alive = moved[self._holes["key"]] != kernel.NONE
        self._holes = {name: column[alive] for name, column in self._holes.items()}
        self._holes["key"] = moved[self._holes["key"]]
        return told

    def _told(self, places: Int64s) -> bytes:
        places = places[self._columns["first"][places] != kernel.NEVER]
        if not len(places):
            return b""
        holes = np.isin(self._holes["key"], places)
        columns = {name: column[holes] for name, column in self._holes.items()}
        columns["key"] = np.searchsorted(places, columns["key"])
        keys = self._keys_table().take(pa.array(places))
        return framed("keys", keys) + framed("holes", pa.table(columns))

    def record_ms(self, partition: int) -> int:
        """The newest record time seen in a partition; kernel.NEVER before its first message."""
        return int(self._partition_ms[partition]) if partition < len(self._partition_ms) else kernel.NEVER

    def open_holes(self) -> list[tuple[Key, int, int, bool]]:
        """(key, first, last, explained by quarantine) of every open hole; for tests and status."""
        return [
            (self.keys[key], int(first), int(last), cause != kernel.UNKNOWN)
            for key, first, last, cause in zip(
                *(self._holes[name] for name in ("key", "first", "last", "cause")), strict=True
            )
        ]

    def _grow(self, rows: kernel.Rows) -> None:
        partitions = int(rows.partition.max(initial=-1)) + 1
        if partitions > len(self._partition_ms):
            more = np.full(partitions - len(self._partition_ms), kernel.NEVER, dtype=np.int64)
            self._partition_ms = np.concatenate([self._partition_ms, more])

    def _open_holes(self, room: int) -> kernel.Holes:
        count = len(self._holes["key"])
        held = kernel.Holes(**self._holes, next=np.full(count, kernel.NONE, dtype=np.int64), free=np.zeros(1, np.int64))
        return with_room(held, room)

    def _key_arrays(self, holes: kernel.Holes) -> kernel.Keys:
        size = len(self._columns["last"])
        key, unexplained = self._holes["key"], self._holes["cause"] == kernel.UNKNOWN
        head = np.full(size, kernel.NONE, dtype=np.int64)
        # kept in list order, key by key, so each one's next is its neighbour
        places = np.arange(len(key))
        head[key[::-1]] = places[::-1]
        last_of_key = np.append(key[1:] != key[:-1], True) if len(key) else np.zeros(0, dtype=bool)
        holes.next[: len(key)] = np.where(last_of_key, kernel.NONE, places + 1)
        return kernel.Keys(
            **self._columns,
            head=head,
            holes=np.bincount(key[unexplained], minlength=size),
            explained=np.bincount(key[~unexplained], minlength=size),
            waiting=np.bincount(key[self._holes["reported"] == 0], minlength=size),
        )

    def _symbol_arrays(self) -> kernel.Symbols:
        return kernel.Symbols(**self._symbol_columns)

    def _partition_arrays(self) -> kernel.Partitions:
        times = self._partition_ms
        day_end = np.where(times == kernel.NEVER, kernel.NEVER, (times // kernel.DAY_MS + 1) * kernel.DAY_MS)
        columns = self._symbol_columns
        strange = (columns["known"] == 0) & (columns["bad"] > 0)
        return kernel.Partitions(times, day_end, np.bincount(columns["partition"][strange], minlength=len(times)))

    def _forget_strangers(self) -> None:
        """Symbols that only unreadable messages named and that are not remembered."""
        count = len(self.symbols)
        columns = self._symbol_columns
        kept = (columns["known"][:count] == 1) | (columns["bad"][:count] > 0)
        keys = self._columns["symbol"][: len(self.keys)]
        kept[keys] = True
        if kept.all():
            return
        moved = np.cumsum(kept) - 1
        self.symbols = [symbol for symbol, stays in zip(self.symbols, kept.tolist(), strict=True) if stays]
        self._symbol_index = {symbol: at for at, symbol in enumerate(self.symbols)}
        self._symbol_columns = {name: column[:count][kept] for name, column in columns.items()}
        keys[:] = moved[keys]

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
        self._holes = {name: getattr(holes, name)[order].copy() for name in HOLE_COLUMNS}

    def _read(self, events: kernel.Events) -> list[Event]:
        columns = [getattr(events, name)[: events.used[0]].tolist() for name in EVENT_COLUMNS]
        return [Event(row, kind, self.keys[key], *others) for row, kind, key, *others in zip(*columns, strict=True)]

    def dump(self) -> bytes:
        """The state as bytes (compressed Arrow)."""
        parts = {
            "keys": self._keys_table(),
            "holes": pa.table(self._holes),
            "symbols": pa.table(
                {
                    "symbol": pa.array([one[1] for one in self.symbols], pa.string()),
                    **{name: column[: len(self.symbols)] for name, column in self._symbol_columns.items()},
                }
            ),
            "partitions": pa.table({"record_ms": self._partition_ms}),
        }
        return b"".join(framed(name, table) for name, table in parts.items())

    def _keys_table(self) -> pa.Table:
        count = len(self.keys)
        return pa.table(
            {
                **{f"part_{place}": [key[place] for key in self.keys] for place in range(_width(self.keys))},
                **{name: column[:count] for name, column in self._columns.items()},
            }
        )

    @classmethod
    def load(cls, data: bytes) -> "Numbering":
        """The state that `dump` wrote, of this version or a former one."""
        parts = dict(unframed(data))
        out = cls()
        keys, holes = with_columns(parts["keys"], _KEY_COLUMNS), with_columns(parts["holes"], HOLE_COLUMNS)
        width = sum(name.startswith("part_") for name in keys.column_names)
        columns = [keys[f"part_{place}"].to_pylist() for place in range(width)]
        out.keys = list(zip(*columns, strict=True))
        out._index = {key: at for at, key in enumerate(out.keys)}
        out._columns = {name: keys[name].to_numpy().copy() for name in _KEY_COLUMNS}
        out._holes = {name: holes[name].to_numpy().copy() for name in HOLE_COLUMNS}
        symbols = parts["symbols"]
        out.symbols = list(zip(symbols["partition"].to_pylist(), symbols["symbol"].to_pylist(), strict=True))
        out._symbol_index = {one: at for at, one in enumerate(out.symbols)}
        out._symbol_columns = {name: symbols[name].to_numpy().copy() for name in _SYMBOL_COLUMNS}
        out._partition_ms = parts["partitions"]["record_ms"].to_numpy().copy()
        return out


def _width(keys: list[Key]) -> int:
    return len(keys[0]) if keys else 0
