"""The sequence tracker of one dataset and exchange: both numberings, and when a session is too old to judge.

    venue       (partition, stream, kind, session, symbol): the exchange's own numbers, where its domain can be judged
    publisher   (partition, publisher session, symbol): the feed handler's numbers, dense from 1

A row's identity is by the venue's numbering where that is judged here, else by the publisher's; a row with neither is
identified by its offset and cannot be a duplicate (DESIGN D4).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from k2_dagster.ingest import kernel
from k2_dagster.ingest.columns import Codes, combine
from k2_dagster.ingest.numbering import Event, Key, Numbering

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.int8]

MS_PER_DAY = 86_400_000
VENUE, PUBLISHER = "venue", "publisher"
# Sessions whose numbers are forgotten but whose names are kept, so that their messages are known to be too old. Past
# this many, the oldest names go too; at a session a day that is decades.
MAX_OLD_SESSIONS = 10_000

Session = tuple[int, str, str]
# What `combine` gives: a place per row, and the distinct combinations.
Combinations = tuple[Int64s, list[tuple[str | None, ...]]]


@dataclass(frozen=True, slots=True)
class Input:
    """The rows of a batch, one entry per raw message, in raw order. Text columns are coded; see `kernel.Rows`.

    `flag` is GOOD, REFUSED or UNREADABLE; `by_venue` says whose numbering identifies the row; `sparse` marks rows whose
    venue numbers jump. Entries of unreadable rows are ignored, but for partition, offset, time and symbol.
    """

    partition: npt.NDArray[np.int32]
    offset: Int64s
    time_ms: Int64s
    flag: Flags
    by_venue: npt.NDArray[np.bool_]
    sparse: npt.NDArray[np.bool_]
    stream: Codes
    kind: Codes
    session: Codes
    symbol: Codes
    sequence: Int64s
    previous: Int64s
    publisher_session: Codes
    publisher_sequence: Int64s
    has_publisher: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Per raw message, the verdict of the numbering that identifies it; and the events of both numberings."""

    verdict: Flags
    events: dict[str, list[Event]]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a profile says of judging: the grace before a hole is a gap, and how long a closed session is remembered."""

    grace_messages: int
    grace_ms: int
    horizon_days: int


class Tracker:
    """State and judgement. `strict_partitions`: those read from offset 0, whose publisher numbers begin at 1."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.horizon_ms = terms.horizon_days * MS_PER_DAY
        self.numberings = {VENUE: Numbering(), PUBLISHER: Numbering()}
        # last record time of each session, and when the newest session of each stream was first seen
        self._last_ms: dict[str, dict[Session, int]] = {VENUE: {}, PUBLISHER: {}}
        self._newest_ms: dict[str, dict[tuple[int, str], int]] = {VENUE: {}, PUBLISHER: {}}

    def judge(self, rows: Input, strict_partitions: frozenset[int]) -> Verdicts:
        """Judge one batch and move the state on."""
        partition = Codes(rows.partition, [str(one) for one in range(int(rows.partition.max(initial=0)) + 1)])
        numbered = rows.flag != kernel.UNREADABLE
        record_ms = self._record_times(rows)
        of_venue, of_publisher = numbered & rows.by_venue, numbered & rows.has_publisher
        constant = Codes(np.zeros(len(rows.offset), dtype=np.int32), [PUBLISHER])
        venue_old = self._old(VENUE, [partition, rows.stream, rows.session], of_venue, record_ms)
        publisher_old = self._old(PUBLISHER, [partition, constant, rows.publisher_session], of_publisher, record_ms)
        venue_flags = np.where(numbered & (~of_venue | venue_old), kernel.SKIPPED, rows.flag).astype(np.int8)
        publisher_flags = np.where(numbered & (~of_publisher | publisher_old), kernel.SKIPPED, rows.flag)
        symbols = combine([partition, rows.symbol])
        venue = self._judge_venue(rows, partition, symbols, venue_flags)
        publisher = self._judge_publisher(rows, partition, symbols, publisher_flags.astype(np.int8), strict_partitions)
        verdict = np.where(rows.by_venue, venue[0], publisher[0])
        verdict = np.where(np.where(rows.by_venue, venue_old, publisher_old), kernel.HORIZON, verdict)
        self._forget_old()
        return Verdicts(verdict.astype(np.int8), {VENUE: venue[1], PUBLISHER: publisher[1]})

    def _judge_venue(
        self, rows: Input, partition: Codes, symbols: Combinations, flags: Flags
    ) -> tuple[Flags, list[Event]]:
        places, parts = combine([partition, rows.stream, rows.kind, rows.session, rows.symbol])
        used = np.zeros(len(parts), dtype=bool)
        used[_places_of(places, (flags == kernel.GOOD) | (flags == kernel.REFUSED))] = True
        sparse = np.zeros(len(parts), dtype=bool)
        sparse[_places_of(places, rows.sparse)] = True
        numbering = self.numberings[VENUE]
        index = np.array(
            [
                numbering.key_index((int(str(key[0])), *key[1:]), start=kernel.NEVER, sparse=bool(jumps))
                if wanted
                else -1
                for key, wanted, jumps in zip(parts, used, sparse, strict=True)
            ],
            dtype=np.int32,
        )
        return self._run(numbering, rows, symbols, index[places], flags, rows.sequence, rows.previous)

    def _judge_publisher(
        self,
        rows: Input,
        partition: Codes,
        symbols: Combinations,
        flags: Flags,
        strict_partitions: frozenset[int],
    ) -> tuple[Flags, list[Event]]:
        places, parts = combine([partition, rows.publisher_session, rows.symbol])
        used = np.zeros(len(parts), dtype=bool)
        used[_places_of(places, (flags == kernel.GOOD) | (flags == kernel.REFUSED))] = True
        numbering = self.numberings[PUBLISHER]
        index = np.full(len(parts), -1, dtype=np.int32)
        for at in np.flatnonzero(used):
            key: Key = (int(str(parts[at][0])), *parts[at][1:])
            start = 0 if key[0] in strict_partitions else kernel.NEVER
            index[at] = numbering.key_index(key, start=start, sparse=False)
        sequence = rows.publisher_sequence
        return self._run(numbering, rows, symbols, index[places], flags, sequence, sequence - 1)

    def _run(
        self,
        numbering: Numbering,
        rows: Input,
        symbols: Combinations,
        key: npt.NDArray[np.int32],
        flags: Flags,
        sequence: Int64s,
        previous: Int64s,
    ) -> tuple[Flags, list[Event]]:
        places, parts = symbols
        symbol_of = np.array(
            [
                numbering.symbol_index((int(str(place)), symbol)) if symbol is not None else -1
                for place, symbol in parts
            ],
            dtype=np.int32,
        )
        judged = numbering.judge(
            kernel.Rows(key, sequence, previous, flags, symbol_of[places], rows.partition, rows.offset, rows.time_ms),
            grace_messages=self.terms.grace_messages,
            grace_ms=self.terms.grace_ms,
        )
        return judged.verdicts, judged.events

    def _record_times(self, rows: Input) -> Int64s:
        """Kafka's record time of each row, never going back within a partition."""
        out = rows.time_ms.copy()
        for partition in np.flatnonzero(np.bincount(rows.partition)).tolist():
            at = np.flatnonzero(rows.partition == partition)
            before = self.numberings[VENUE].record_ms(partition)
            out[at] = np.maximum.accumulate(np.maximum(out[at], before))
        return out

    def _old(
        self, name: str, columns: list[Codes], wanted: npt.NDArray[np.bool_], record_ms: Int64s
    ) -> npt.NDArray[np.bool_]:
        """Rows of sessions that ended longer ago than the horizon; notes the sessions of the others.

        The rows are looked at by stretches of record time that are shorter than the horizon: inside one, a session's
        first row decides for all of its rows, so that the batch may be split anywhere.
        """
        out = np.zeros(len(wanted), dtype=bool)
        if not wanted.any():
            return out
        all_wanted = bool(wanted.all())
        if all_wanted and int(record_ms.min()) // self.horizon_ms == int(record_ms.max()) // self.horizon_ms:
            return self._old_of_stretch(name, columns, record_ms)
        stretches = record_ms // self.horizon_ms
        for stretch in np.unique(stretches[wanted]):
            at = np.flatnonzero(wanted & (stretches == stretch))
            out[at] = self._old_of_stretch(name, [column.take(at) for column in columns], record_ms[at])
        return out

    def _old_of_stretch(self, name: str, columns: list[Codes], record_ms: Int64s) -> npt.NDArray[np.bool_]:
        places, parts = combine(columns)
        old = np.zeros(len(parts), dtype=bool)
        old[list(self._note_sessions(name, places, parts, record_ms))] = True
        return old[places] if old.any() else np.zeros(len(places), dtype=bool)

    def _note_sessions(self, name: str, places: Int64s, parts: list[tuple[str | None, ...]], times: Int64s) -> set[int]:
        last_ms, newest_ms = self._last_ms[name], self._newest_ms[name]
        firsts = np.empty(len(parts), dtype=np.int64)
        # of a place that occurs more than once the last assignment stays, which is its first row
        firsts[places[::-1]] = np.arange(len(places) - 1, -1, -1)
        lasts = np.empty(len(parts), dtype=np.int64)
        # record time never goes back within a partition, so a session's newest is its last row's
        lasts[places] = times
        old: set[int] = set()
        for at in np.argsort(firsts, kind="stable").tolist():
            session = (int(str(parts[at][0])), str(parts[at][1]), parts[at][2] or "")
            first = int(times[firsts[at]])
            before = last_ms.get(session)
            newest = newest_ms.get(session[:2], kernel.NEVER)
            if before is None:
                newest_ms[session[:2]] = max(newest, first)
            elif first - before > self.horizon_ms and newest > before:
                old.add(at)
                continue
            last_ms[session] = max(int(lasts[at]), before if before is not None else kernel.NEVER)
        return old

    def _forget_old(self) -> None:
        for name, numbering in self.numberings.items():
            last_ms, newest_ms = self._last_ms[name], self._newest_ms[name]
            old = {
                session
                for session, last in last_ms.items()
                if numbering.record_ms(session[0]) - last > 2 * self.horizon_ms and newest_ms[session[:2]] > last
            }
            if old:
                numbering.forget({at for at, key in enumerate(numbering.keys) if _session_of(name, key) in old})
            if len(last_ms) > MAX_OLD_SESSIONS:
                for session in sorted(last_ms, key=last_ms.__getitem__)[:-MAX_OLD_SESSIONS]:
                    del last_ms[session]

    def dump(self) -> bytes:
        """The whole state as bytes."""
        head = {
            name: {
                "last_ms": [[*session, ms] for session, ms in self._last_ms[name].items()],
                "newest_ms": [[*stream, ms] for stream, ms in self._newest_ms[name].items()],
            }
            for name in self.numberings
        }
        parts = [json.dumps(head).encode(), *(numbering.dump() for numbering in self.numberings.values())]
        return b"".join(len(part).to_bytes(8, "big") + part for part in parts)

    @classmethod
    def load(cls, data: bytes, terms: Terms) -> "Tracker":
        """The state that `dump` wrote, under today's profile."""
        out = cls(terms)
        parts = []
        at = 0
        while at < len(data):
            end = at + 8 + int.from_bytes(data[at : at + 8], "big")
            parts.append(data[at + 8 : end])
            at = end
        head: Mapping[str, Mapping[str, list[list[object]]]] = json.loads(parts[0])
        for name, body in zip(out.numberings, parts[1:], strict=True):
            out.numberings[name] = Numbering.load(body)
            for partition, stream, session, ms in head[name]["last_ms"]:
                out._last_ms[name][_whole(partition), str(stream), str(session)] = _whole(ms)
            for partition, stream, ms in head[name]["newest_ms"]:
                out._newest_ms[name][_whole(partition), str(stream)] = _whole(ms)
        return out


def _places_of(places: Int64s, chosen: npt.NDArray[np.bool_]) -> Int64s:
    """The places of the chosen rows; all or none, as nearly always, without a copy."""
    if chosen.all():
        return places
    return places[chosen] if chosen.any() else places[:0]


def _whole(value: object) -> int:
    return int(str(value))


def _session_of(name: str, key: Key) -> Session:
    if name == VENUE:
        return key[0], str(key[1]), key[3] or ""
    return key[0], PUBLISHER, key[1] or ""
