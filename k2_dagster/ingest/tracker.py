"""The sequence tracker of one dataset and exchange: both numberings, and when a session is too old to judge.

    venue       (partition, stream, kind, session, symbol): the exchange's own numbers, where its domain can be judged
    publisher   (partition, publisher session, symbol): the feed handler's numbers, dense from 1

A row's identity is by the venue's numbering where that is judged here, else by the publisher's; a row with neither is
identified by its offset and cannot be a duplicate (DESIGN D4), unless it was refused before and comes back: then by the
offset that it was refused at (`returned.py`). A row of a channel has its number for an identity too: the publisher's
numbering says what is missing, and either knows a duplicate (`channel_numbers.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from k2_dagster.ingest import kernel
from k2_dagster.ingest.channel_numbers import ChannelNumbers
from k2_dagster.ingest.columns import Codes, Known, combine
from k2_dagster.ingest.jumps import Jump, returning, taking_part
from k2_dagster.ingest.numbering import Event, Judged, Key, Numbering
from k2_dagster.ingest.returned import Original, Returned
from k2_dagster.ingest.sessions import Reset, Session, Sessions, record_times
from k2_dagster.ingest.terms import Terms
from k2_dagster.state.tracked import CHANNEL, PUBLISHER, VENUE, joined, parted

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.int8]

# What `combine` gives: a place per row, and the distinct combinations.
Combinations = tuple[Int64s, list[tuple[str | None, ...]]]


@dataclass(frozen=True, slots=True)
class Input:
    """The rows of a batch, one entry per raw message, in raw order. Text columns are coded; see `kernel.Rows`.

    `flag` is GOOD, REFUSED or UNREADABLE; `by_venue` says whose numbering identifies the row; `sparse` marks rows that
    may cover many of the venue's numbers; `blind` those that are unreadable to the venue's numbering alone. Entries of
    unreadable rows are ignored, but for partition, offset, time and symbol.
    `originals` says of rows that come back from quarantine where they were first refused. `in_channel` marks the rows
    whose `sequence` is their number in `channel`, `is_aside` those that are not in its order; None: there are none.
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
    event_micros: Int64s
    publisher_session: Codes
    publisher_sequence: Int64s
    has_publisher: npt.NDArray[np.bool_]
    originals: Mapping[int, Original] = field(default_factory=dict)
    blind: npt.NDArray[np.bool_] | None = None
    in_channel: npt.NDArray[np.bool_] | None = None
    channel: Codes | None = None
    is_aside: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Per raw message, the verdict of the numbering that identifies it; and the events of both numberings.
    `copied` are the duplicates that their number in a channel shows; `jumps` tells of the rows of verdict JUMP.

    `resets` are sessions that began after others; `forgotten` is what the sessions had received that are over now (see
    `Numbering.forget`). Both by numbering.
    """

    verdict: Flags
    events: dict[str, list[Event]]
    resets: dict[str, list[Reset]]
    forgotten: dict[str, bytes]
    copied: frozenset[int] = frozenset()
    jumps: Mapping[int, Jump] = field(default_factory=dict)


class Tracker:
    """State and judgement. `strict_partitions`: those read from offset 0, whose publisher numbers begin at 1."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.numberings = {VENUE: Numbering(), PUBLISHER: Numbering()}
        self.sessions = {name: Sessions(terms.horizon_days) for name in (*self.numberings, CHANNEL)}
        self.channels = ChannelNumbers()
        self.returned = Returned()

    def judge(self, rows: Input, strict_partitions: frozenset[int]) -> Verdicts:
        """Judge one batch and move the state on."""
        partition = Codes(rows.partition, [str(one) for one in range(int(rows.partition.max(initial=0)) + 1)])
        numbered = rows.flag != kernel.UNREADABLE
        record_ms = record_times(rows.partition, rows.time_ms, self.numberings[VENUE].record_ms)
        of_venue, of_publisher = numbered & rows.by_venue, numbered & rows.has_publisher
        known: Known = {}
        venue_old = self.sessions[VENUE].old([partition, rows.stream, rows.session], of_venue, record_ms, known)
        publisher_old = self.sessions[PUBLISHER].old(
            [partition, rows.stream, rows.publisher_session], of_publisher, record_ms, known
        )
        venue_flags = np.where(numbered & (~of_venue | venue_old), kernel.SKIPPED, rows.flag).astype(np.int8)
        if rows.blind is not None:
            venue_flags[rows.blind] = kernel.UNREADABLE
        # good rows have the symbol of their key
        symbols = None if numbered.all() and rows.blind is None else combine([partition, rows.symbol], known)
        of_keys = combine([partition, rows.stream, rows.kind, rows.session, rows.symbol], known)
        venue = self._judge_venue(rows, of_keys, symbols, returning(venue_flags, rows.originals))
        of_keys = combine([partition, rows.publisher_session, rows.symbol], known)
        publisher_flags = np.where(numbered & (~of_publisher | publisher_old), kernel.SKIPPED, rows.flag)
        # what the venue's number refuses claims no pair. The other way round, a pair that jumps refuses only what it
        # identifies: a message whose venue's number is sound lands
        publisher_flags[[row for row in venue.jumps if publisher_flags[row] == kernel.GOOD]] = kernel.REFUSED
        publisher_flags = returning(publisher_flags.astype(np.int8), rows.originals)
        publisher = self._judge_publisher(rows, of_keys, symbols, publisher_flags, strict_partitions)
        # A refused row is known by its pair: the venue's number of a damaged message may be damage too
        by_venue = rows.by_venue & ~((rows.flag == kernel.REFUSED) & rows.has_publisher)
        verdict = np.where(by_venue, venue.verdicts, publisher.verdicts)
        verdict = np.where(np.where(by_venue, venue_old, publisher_old), kernel.HORIZON, verdict)
        copied = frozenset() if rows.in_channel is None else self._judge_channel(rows, verdict, record_ms, known)
        for row, original in sorted(rows.originals.items()):
            if rows.flag[row] == kernel.GOOD and not _is_numbered(rows, row):
                verdict[row] = self.returned.claim(int(rows.partition[row]), original)
        # sessions of a channel are told by its feed handler
        resets = {name: sessions.take_resets() for name, sessions in self.sessions.items() if name != CHANNEL}
        return Verdicts(
            verdict.astype(np.int8),
            events={VENUE: venue.events, PUBLISHER: publisher.events},
            resets=resets,
            forgotten=self._forget_old(),
            copied=copied,
            jumps=self._jumps(rows, verdict, venue, publisher),
        )

    def _jumps(self, rows: Input, verdict: Flags, venue: Judged, publisher: Judged) -> dict[int, Jump]:
        out = {}
        for row in np.flatnonzero(verdict == kernel.JUMP).tolist() if venue.jumps or publisher.jumps else ():
            if rows.by_venue[row]:
                bound = self.terms.believed(sparse=bool(rows.sparse[row]))
                out[row] = Jump("sequence", int(rows.sequence[row]), venue.jumps[row], bound)
            else:
                bound, number = self.terms.believed(sparse=False), int(rows.publisher_sequence[row])
                out[row] = Jump("publisher_sequence", number, publisher.jumps[row], bound)
        return out

    def _judge_channel(self, rows: Input, verdict: Flags, record_ms: Int64s, known: Known) -> frozenset[int]:
        """Refuse in `verdict` what has landed by its number in a channel; returns the duplicates among them."""
        assert rows.in_channel is not None
        assert rows.channel is not None
        wanted = rows.in_channel & (rows.flag == kernel.GOOD)
        wanted &= (verdict == kernel.IN_ORDER) | (verdict == kernel.LATE)
        partition = Codes(rows.partition, [str(one) for one in range(int(rows.partition.max(initial=0)) + 1)])
        old = self.sessions[CHANNEL].old([partition, rows.stream, rows.session], wanted, record_ms, known)
        verdict[old] = kernel.HORIZON
        wanted &= ~old
        places, parts = combine([partition, rows.stream, rows.kind, rows.session, rows.channel, rows.symbol], known)
        used = _occurring(places, len(parts), wanted)
        index = np.full(len(parts), kernel.NONE, dtype=np.int64)
        for at in np.flatnonzero(used).tolist():
            stream, kind, session, channel, symbol = parts[at][1:]
            key = int(str(parts[at][0])), stream, kind, session, channel, symbol
            index[at] = self.channels.key_index(key)
        refused, why = self.channels.judge(index[places], rows.sequence, wanted, rows.is_aside)
        verdict[refused] = why
        return frozenset(refused[why == kernel.DUPLICATE].tolist())

    def _judge_venue(self, rows: Input, of_keys: Combinations, symbols: Combinations | None, flags: Flags) -> Judged:
        places, parts = of_keys
        used = _occurring(places, len(parts), taking_part(flags))
        sparse = _occurring(places, len(parts), rows.sparse)
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
        of_keys: Combinations,
        symbols: Combinations | None,
        flags: Flags,
        strict_partitions: frozenset[int],
    ) -> Judged:
        places, parts = of_keys
        used = _occurring(places, len(parts), taking_part(flags))
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
        symbols: Combinations | None,
        key: npt.NDArray[np.int32],
        flags: Flags,
        sequence: Int64s,
        previous: Int64s,
    ) -> Judged:
        symbol = _symbols(numbering, symbols, len(flags))
        return numbering.judge(
            kernel.Rows(
                *(key, sequence, previous, flags, symbol),
                *(rows.partition, rows.offset, rows.time_ms, rows.event_micros),
            ),
            grace_messages=self.terms.grace_messages,
            grace_ms=self.terms.grace_ms,
            reach=(self.terms.believed(sparse=False), self.terms.believed(sparse=True)),
        )

    def _forget_old(self) -> dict[str, bytes]:
        told = {}
        for name, numbering in self.numberings.items():
            over = self.sessions[name].over(numbering.record_ms)
            if over:
                told[name] = numbering.forget(self._keys_of(name, over))
        over = self.sessions[CHANNEL].over(self.numberings[VENUE].record_ms)
        if over:
            self.channels.forget(lambda key: (key[0], str(key[1]), key[3] or "") in over)
        return {name: forgotten for name, forgotten in told.items() if forgotten}

    def _keys_of(self, name: str, over: set[Session]) -> set[int]:
        """Indices of the keys of sessions that are over. A publisher's numbers go over all of its streams."""
        keys = self.numberings[name].keys
        if name == VENUE:
            return {at for at, key in enumerate(keys) if (key[0], str(key[1]), key[3] or "") in over}
        gone = {(partition, session) for partition, _, session in over} - self.sessions[name].alive()
        return {at for at, key in enumerate(keys) if (key[0], key[1] or "") in gone}

    def dump(self) -> bytes:
        """The whole state as bytes."""
        head = {name: sessions.dump() for name, sessions in self.sessions.items()}
        numberings = [numbering.dump() for numbering in self.numberings.values()]
        return joined([json.dumps(head).encode(), *numberings, self.returned.dump(), self.channels.dump()])

    @classmethod
    def load(cls, data: bytes, terms: Terms) -> "Tracker":
        """The state that `dump` wrote, in this version or a former one, under today's profile."""
        out, pieces = cls(terms), parted(data)
        head: Mapping[str, Mapping[str, list[list[object]]]] = json.loads(pieces["head"])
        out.returned = Returned.load(pieces["returned"])
        for name in out.numberings:
            out.numberings[name] = Numbering.load(pieces[name])
            out.sessions[name].restore(head[name])
        if CHANNEL in pieces:
            out.sessions[CHANNEL].restore(head[CHANNEL])
            out.channels = ChannelNumbers.load(pieces[CHANNEL])
        return out


def _is_numbered(rows: Input, row: int) -> bool:
    in_channel = rows.in_channel is not None and rows.in_channel[row]
    return bool(rows.by_venue[row] or rows.has_publisher[row] or in_channel)


def _occurring(places: Int64s, count: int, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which of `count` places, each of which occurs, do so in the chosen rows; nearly always those are all or none."""
    if chosen.all():
        return np.ones(count, dtype=bool)
    out = np.zeros(count, dtype=bool)
    if chosen.any():
        out[places[chosen]] = True
    return out


def _symbols(numbering: Numbering, symbols: Combinations | None, count: int) -> npt.NDArray[np.int32]:
    if symbols is None:
        return np.full(count, kernel.NONE, dtype=np.int32)
    places, parts = symbols
    named = [
        numbering.symbol_index((int(str(partition)), symbol)) if symbol is not None else kernel.NONE
        for partition, symbol in parts
    ]
    out: npt.NDArray[np.int32] = np.array(named, dtype=np.int32)[places]
    return out
