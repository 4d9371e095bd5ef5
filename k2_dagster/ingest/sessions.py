"""When a session of a numbering is too old to judge (DESIGN D4).

A session is closed once another of its stream has begun; its numbers are remembered for the declared days after it was
last heard of, and what comes later is beyond the horizon. All by record time of its partition, never by a clock.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from k2_dagster.ingest.columns import Codes, Known, combine
from k2_dagster.ingest.fixed import fixed

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MS_PER_DAY = 86_400_000
NEVER = -(2**62)
# Sessions whose numbers are forgotten but whose names are kept, so that their messages are known to be too old. Past
# this many, the oldest names go too; at a session a day that is decades.
MAX_OLD_SESSIONS = 10_000

# (partition, stream, session); a session without a name is ""
Session = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class Reset:
    """A session that began after another one of its stream, with the row of the batch that showed it."""

    row: int
    partition: int
    stream: str
    previous_session: str
    session: str


class Sessions:
    """The sessions of one numbering: last record time of each, and when the newest of each stream was first seen.

    `resets` gathers sessions that began after another until `take_resets` takes them.
    """

    def __init__(self, horizon_days: int) -> None:
        self.horizon_ms = horizon_days * MS_PER_DAY
        self.last_ms: dict[Session, int] = {}
        self.newest_ms: dict[tuple[int, str], int] = {}
        self.newest: dict[tuple[int, str], str] = {}
        self.resets: list[Reset] = []
        self._told: set[Session] = set()

    def old(self, columns: list[Codes], wanted: Flags, record_ms: Int64s, known: Known | None = None) -> Flags:
        """Rows of sessions that ended longer ago than the horizon; notes the sessions of the others.

        `columns` are partition, stream and session of each row. The rows are looked at by stretches of record time that
        are shorter than the horizon: inside one, a session's first row decides for all of its rows, so that the batch
        may be split anywhere. `known` is what was combined of the batch before, see `combine`.
        """
        if not wanted.any():
            return np.zeros(len(wanted), dtype=bool)
        if wanted.all() and self._one_stretch(record_ms):
            return self._old_of_stretch(columns, record_ms, np.arange(len(wanted)), known)
        out = np.zeros(len(wanted), dtype=bool)
        at = np.flatnonzero(wanted)
        taken, times = [column.take(at) for column in columns], record_ms[at]
        if self._one_stretch(times):
            out[at] = self._old_of_stretch(taken, times, at)
            return out
        stretches = times // self.horizon_ms
        for stretch in np.unique(stretches):
            inside = np.flatnonzero(stretches == stretch)
            of_stretch = [column.take(inside) for column in taken]
            out[at[inside]] = self._old_of_stretch(of_stretch, times[inside], at[inside])
        return out

    def _one_stretch(self, times: Int64s) -> bool:
        return int(times.min()) // self.horizon_ms == int(times.max()) // self.horizon_ms

    def take_resets(self) -> list[Reset]:
        """Those since the last call, in the order of their rows."""
        out, self.resets = self.resets, []
        return sorted(out, key=lambda reset: reset.row)

    def over(self, record_ms: Callable[[int], int]) -> set[Session]:
        """Sessions whose numbers nobody needs any more, each told once. `record_ms` gives a partition's newest time."""
        out = {
            session
            for session, last in self.last_ms.items()
            if session not in self._told
            and record_ms(session[0]) - last > 2 * self.horizon_ms
            and self.newest_ms[session[:2]] > last
        }
        self._told |= out
        if len(self.last_ms) > MAX_OLD_SESSIONS:
            for session in sorted(self.last_ms, key=self.last_ms.__getitem__)[:-MAX_OLD_SESSIONS]:
                del self.last_ms[session]
        return out

    def alive(self) -> set[tuple[int, str]]:
        """(partition, session) of every session that is not over in each of its streams."""
        return {(session[0], session[2]) for session in self.last_ms if session not in self._told}

    def dump(self) -> dict[str, list[list[object]]]:
        """As JSON."""
        return {
            "last_ms": [[*session, ms] for session, ms in sorted(self.last_ms.items())],
            "newest_ms": [[*stream, ms] for stream, ms in sorted(self.newest_ms.items())],
            "newest": [[*stream, session] for stream, session in sorted(self.newest.items())],
        }

    def restore(self, stored: Mapping[str, list[list[object]]]) -> None:
        """What `dump` gave, in this version or a former one, which did not name the newest sessions."""
        for partition, stream, session, ms in sorted(stored["last_ms"], key=lambda one: _whole(one[-1])):
            self.last_ms[_whole(partition), str(stream), str(session)] = _whole(ms)
            self.newest[_whole(partition), str(stream)] = str(session)
        for partition, stream, ms in stored["newest_ms"]:
            self.newest_ms[_whole(partition), str(stream)] = _whole(ms)
        for partition, stream, session in stored.get("newest", ()):
            self.newest[_whole(partition), str(stream)] = str(session)

    def _old_of_stretch(
        self, columns: list[Codes], record_ms: Int64s, rows: Int64s, known: Known | None = None
    ) -> Flags:
        places, parts = combine(columns, known)
        old = np.zeros(len(parts), dtype=bool)
        old[list(self._note(places, parts, record_ms, rows))] = True
        return old[places] if old.any() else np.zeros(len(places), dtype=bool)

    def _note(self, places: Int64s, parts: list[tuple[str | None, ...]], times: Int64s, rows: Int64s) -> set[int]:
        firsts, lasts = first_and_last(fixed(places), fixed(times), len(parts))
        old: set[int] = set()
        for at in np.argsort(firsts, kind="stable").tolist():
            session = (int(str(parts[at][0])), str(parts[at][1]), parts[at][2] or "")
            first = int(times[firsts[at]])
            before = self.last_ms.get(session)
            newest = self.newest_ms.get(session[:2], NEVER)
            if before is None:
                self.newest_ms[session[:2]] = max(newest, first)
                self._begin(session, int(rows[firsts[at]]))
            elif first - before > self.horizon_ms and newest > before:
                old.add(at)
                continue
            self.last_ms[session] = max(int(lasts[at]), before if before is not None else NEVER)
        return old

    def _begin(self, session: Session, row: int) -> None:
        """Of a session that was not known."""
        partition, stream, name = session
        previous = self.newest.get((partition, stream))
        self.newest[partition, stream] = name
        if previous is not None:
            self.resets.append(Reset(row, partition, stream, previous, name))


def record_times(partition: npt.NDArray[np.int32], time_ms: Int64s, newest: Callable[[int], int]) -> Int64s:
    """Kafka's record time of each row, never going back within a partition; `newest` tells that before the batch."""
    before = [newest(one) for one in range(int(partition.max(initial=-1)) + 1)]
    out: Int64s = never_back(fixed(partition), fixed(time_ms), np.array(before, dtype=np.int64))
    return out


@numba.njit(cache=True, nogil=True)
def never_back(partition, time_ms, newest):  # type: ignore[no-untyped-def]
    """The newest time of each row's partition so far; `newest` is that before the batch, and is written over."""
    out = np.empty(len(time_ms), dtype=np.int64)
    for row in range(len(time_ms)):
        out[row] = max(newest[partition[row]], time_ms[row])
        newest[partition[row]] = out[row]
    return out


@numba.njit(cache=True, nogil=True)
def first_and_last(places, times, count):  # type: ignore[no-untyped-def]
    """Of each place its first row, and its last time: record time never goes back within a partition, so a session's
    newest is that of its last row."""
    firsts = np.full(count, -1, dtype=np.int64)
    lasts = np.empty(count, dtype=np.int64)
    for row in range(len(places)):
        place = places[row]
        if firsts[place] < 0:
            firsts[place] = row
        lasts[place] = times[row]
    return firsts, lasts


def _whole(value: object) -> int:
    return int(str(value))
