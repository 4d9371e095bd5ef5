"""Which of a channel's numbers have landed, as far as a message may bring one of them again (DESIGN D4).

A channel scatters over symbols: the numbers of one symbol are sparse, so one below the newest may be a copy or may come
late. What comes in the order of its channel comes once: a feed handler asks for, and recovery fetches, only what did
not come. So these are remembered, per (partition, stream, kind, session, channel, symbol):

    newest      the highest number that has landed
    numbers     what landed behind it, or whose headers say that it is not in the order of its channel (`aside`)
    floor       what is not above it is forgotten: as many numbers were remembered as may be, and the lowest went

A feed handler that was started again does not know what came before: it may bring, or have recovered, what has landed
in order. So the newest numbers of that kind are remembered too, whatever their key, per partition (`recent.py`).

Pure: the verdict on a row depends on the state and the row, so any split into batches gives the same.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest import kernel
from k2_dagster.ingest.fixed import fixed
from k2_dagster.ingest.recent import MAX_RECENT, Recent
from k2_dagster.ingest.room import put
from k2_dagster.kafka.batch import Headers
from k2_dagster.schemas.common import BEHIND_HEADER, ORIGIN_HEADER
from k2_dagster.state.frames import framed, unframed

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
# Partition, stream, kind, session, channel, symbol.
Key = tuple[int, str | None, str | None, str | None, str | None, str | None]

# Numbers remembered per key, 8 bytes each: 128 kB. A recovery of more for one symbol is an outage; its rows come in
# their order and land, and only copies of the lowest are refused as beyond the horizon.
MAX_NUMBERS_PER_KEY = 16_384

# How a number stands to what its key has seen; 0 where nobody asked. AGAIN: it has landed in order, not long ago.
ABOVE, SAME, BEHIND, AGAIN = 0, 1, 2, 3
_ASIDE_HEADERS = (BEHIND_HEADER, ORIGIN_HEADER)
_COLUMNS = ("newest", "floor")
_PLACE = "place"
_PARTS = ("partition", "stream", "kind", "session", "channel", "symbol")


class ChannelNumbers:
    """State and judgement of one topic."""

    def __init__(self, most: int = MAX_NUMBERS_PER_KEY, most_recent: int = MAX_RECENT) -> None:
        self.keys: list[Key] = []
        self._recent = Recent(most_recent)
        self._most = most
        self._index: dict[Key, int] = {}
        self._columns: dict[str, Int64s] = {name: np.zeros(0, dtype=np.int64) for name in (*_COLUMNS, _PLACE)}
        self._numbers: dict[int, Int64s] = {}

    def key_index(self, key: Key) -> int:
        """Index of a key, made at first sight."""
        found = self._index.get(key)
        if found is None:
            found = self._index[key] = len(self.keys)
            self.keys.append(key)
            place = self._recent.place_of(key[0])
            put(self._columns, found, {**dict.fromkeys(_COLUMNS, kernel.NEVER), _PLACE: place})
        return found

    def judge(self, key: Int64s, number: Int64s, wanted: Flags, is_aside: Flags | None) -> tuple[Int64s, Int64s]:
        """The rows that do not land, and for each DUPLICATE or HORIZON; moves the state on.

        Only `wanted` rows take part, in their order. `is_aside` is as `aside` gives it.
        """
        standing = np.zeros(len(key), dtype=np.int8)
        asides = np.zeros(0, np.bool_) if is_aside is None else is_aside
        behind = standings(
            *(fixed(key), fixed(number), fixed(wanted), fixed(asides), self._columns["newest"]),
            *(fixed(self._columns[_PLACE]), *self._recent.arrays, standing),
        )
        same = np.flatnonzero((standing == SAME) | (standing == AGAIN)) if behind else np.zeros(0, np.int64)
        noted = standing == BEHIND if is_aside is None else (standing == BEHIND) | (wanted & is_aside & (standing == 0))
        at = np.flatnonzero(noted) if behind or is_aside is not None else np.zeros(0, np.int64)
        found = np.full(len(key), kernel.IN_ORDER, dtype=np.int64)
        found[same] = kernel.DUPLICATE
        order = at[np.argsort(key[at], kind="stable")]
        for rows in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
            if len(rows):
                found[rows] = self._note(int(key[rows[0]]), number[rows])
        refused = np.flatnonzero(found)
        return refused, found[refused]

    def _note(self, key: int, numbers: Int64s) -> Int64s:
        known = self._numbers.get(key, np.zeros(0, dtype=np.int64))
        verdicts = np.zeros(len(numbers), dtype=np.int64)
        floor = self._columns["floor"][key]
        kept, floor = remembered(fixed(known), floor, fixed(numbers), self._most, verdicts)
        self._numbers[key] = kept
        self._columns["floor"][key] = floor
        return verdicts

    def forget(self, is_over: Callable[[Key], bool]) -> None:
        """Drop the keys of sessions that are over."""
        kept = [at for at, key in enumerate(self.keys) if not is_over(key)]
        if len(kept) == len(self.keys):
            return
        self._recent.rekey(np.array(kept, np.int64), len(self.keys))
        self.keys = [self.keys[at] for at in kept]
        self._index = {key: at for at, key in enumerate(self.keys)}
        self._columns = {name: column[kept] for name, column in self._columns.items()}
        self._numbers = {at: self._numbers[old] for at, old in enumerate(kept) if old in self._numbers}

    def dump(self) -> bytes:
        """The state as bytes (compressed Arrow)."""
        count = len(self.keys)
        keys = pa.table(
            {
                **{name: [key[place] for key in self.keys] for place, name in enumerate(_PARTS)},
                **{name: column[:count] for name, column in self._columns.items()},
            }
        )
        held = sorted(self._numbers.items())
        numbers = pa.table(
            {
                "key": np.repeat(np.array([key for key, _ in held], np.int64), [len(found) for _, found in held]),
                "number": np.concatenate([np.zeros(0, np.int64), *(found for _, found in held)]),
            }
        )
        return framed("keys", keys) + framed("numbers", numbers) + framed("recent", self._recent.table())

    @classmethod
    def load(cls, data: bytes, most: int = MAX_NUMBERS_PER_KEY, most_recent: int = MAX_RECENT) -> "ChannelNumbers":
        """The state that `dump` wrote, in this version or a former one (which did not remember the recent)."""
        out, parts = cls(most, most_recent), dict(unframed(data))
        keys: Any = zip(*(parts["keys"][name].to_pylist() for name in _PARTS), strict=True)
        out.keys = list(keys)
        out._index = {key: at for at, key in enumerate(out.keys)}
        out._columns = {name: parts["keys"][name].to_numpy().copy() for name in _COLUMNS}
        if "recent" in parts:
            out._recent = Recent.of_table(parts["recent"], most_recent)
        out._columns[_PLACE] = np.array([out._recent.place_of(key[0]) for key in out.keys], np.int64)
        of_key, numbers = (parts["numbers"][name].to_numpy() for name in ("key", "number"))
        starts = np.flatnonzero(np.diff(of_key, prepend=-1))
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(of_key)], strict=False):
            out._numbers[int(of_key[start])] = numbers[start:end].copy()
        return out

    def recent(self) -> dict[int, list[tuple[Key | None, int]]]:
        """Of each partition the numbers that landed in order, oldest first, with their keys; for tests."""
        return {
            partition: [(self.keys[key] if key >= 0 else None, number) for key, number in found]
            for partition, found in self._recent.remembered().items()
        }

    def remembered(self) -> dict[Key, tuple[int, int, list[int]]]:
        """Of each key its newest number, its floor and the numbers; for tests."""
        columns = zip(*(self._columns[name].tolist() for name in _COLUMNS), strict=True)
        numbers = [self._numbers[at].tolist() if at in self._numbers else [] for at in range(len(self.keys))]
        found = zip(self.keys, columns, numbers, strict=False)
        return {key: (newest, floor, mine) for key, (newest, floor), mine in found}


def aside(headers: Mapping[int, Headers], count: int) -> Flags | None:
    """Which of `count` rows are not in the order of their channel: their feed handler says so, or they were recovered
    or published again. None: there are none."""
    rows = [row for row, found in headers.items() if any(name in _ASIDE_HEADERS for name, _ in found)]
    if not rows:
        return None
    out = np.zeros(count, dtype=bool)
    out[rows] = True
    return out


@numba.njit(cache=True, nogil=True)
def note_landed(keys, numbers, counts, place, key, number):  # type: ignore[no-untyped-def]
    """A number landed in order: it takes the room of the oldest in the ring at `place`."""
    at = counts[place] % keys.shape[1]
    keys[place, at] = key
    numbers[place, at] = number
    counts[place] += 1


@numba.njit(cache=True, nogil=True)
def has_landed(keys, numbers, counts, place, key, number):  # type: ignore[no-untyped-def]
    """Whether the ring at `place` has this number of this key."""
    for at in range(min(counts[place], keys.shape[1])):
        if numbers[place, at] == number and keys[place, at] == key:
            return True
    return False


@numba.njit(cache=True, nogil=True)
def standings(key, number, wanted, asides, newest, place, recent_key, recent_number, counts, standing):  # type: ignore[no-untyped-def]
    """Fills `standing`, moves `newest` and what is recent on; returns how many rows are not above the newest of their
    key. No `asides`: there are none."""
    count = 0
    for row in range(len(key)):
        if not wanted[row]:
            continue
        at = key[row]
        mine = place[at]
        if number[row] > newest[at]:
            newest[at] = number[row]
            if not (len(asides) and asides[row]):
                note_landed(recent_key, recent_number, counts, mine, at, number[row])
            continue
        count += 1
        if number[row] == newest[at]:
            standing[row] = SAME
        elif has_landed(recent_key, recent_number, counts, mine, at, number[row]):
            standing[row] = AGAIN
        else:
            standing[row] = BEHIND
    return count


@numba.njit(cache=True, nogil=True)
def remembered(known, floor, numbers, most, verdicts):  # type: ignore[no-untyped-def]
    """Judge numbers of one key, one after another, against the rising `known`; returns these with the new ones, `most`
    of them, and the floor."""
    room = np.empty(len(known) + len(numbers), dtype=np.int64)
    room[: len(known)] = known
    start, end = 0, len(known)
    for row in range(len(numbers)):
        number = numbers[row]
        if number <= floor:
            verdicts[row] = kernel.HORIZON
            continue
        at = start + np.searchsorted(room[start:end], number)
        if at < end and room[at] == number:
            verdicts[row] = kernel.DUPLICATE
            continue
        for place in range(end, at, -1):
            room[place] = room[place - 1]
        room[at] = number
        end += 1
        if end - start > most:
            floor = room[start]
            start += 1
    return room[start:end].copy(), floor
