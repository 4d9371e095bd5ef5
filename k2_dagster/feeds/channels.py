"""What the numbers of a channel say: gaps, what came late, and session changes, as a pure function of (state, rows).

A channel scatters over symbols, partitions and topics, so only the feed handler sees it whole. Rows are judged one
after another in the order of their arrival: any split of a channel into batches gives the same events.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from k2_dagster.feeds.channel_rows import NO_TIME, ChannelKey, Flags, Int64s, Part, parts
from k2_dagster.schemas.common import MICROS_PER_SECOND

# Ended sessions kept per channel, so that a straggler of one does not look like yet another start. Venues restart a
# few times a day.
CLOSED_SESSIONS_KEPT = 64
# Gaps kept per channel, the newest, so that what comes late fills them. More than this is a line that is down; what was
# missing then, whoever asks the venue again tells of.
GAPS_KEPT = 1_000
# Below every number of a channel.
NO_NUMBER = -1


@dataclass(frozen=True, slots=True)
class Grace:
    """How long a hole may stay open before it is a gap, whichever passes first. Time is the rows' own, no clock's."""

    messages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Hole:
    """Numbers that did not come yet, and where the channel was when that showed. Before and after: the venue's times of
    their neighbours, which may be NO_TIME."""

    first: int
    last: int
    opened_at: int
    opened_micros: int
    before_micros: int
    after_micros: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Numbers of a session that were told as a gap and did not come since."""

    session: str | None
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class ChannelState:
    """Everything that a verdict depends on. `last` is the highest number seen in the session, None before the first,
    and `last_micros` the venue's time of it; `gaps` are of any session."""

    session: str | None = None
    closed: tuple[str, ...] = ()
    last: int | None = None
    last_micros: int = NO_TIME
    messages: int = 0
    micros: int = 0
    holes: tuple[Hole, ...] = ()
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """A gap (`first`..`last` missing, between messages of the venue's times before and after, where known), numbers of
    a gap that came late, or the start of a session (`first` is its first number, if it has numbers).

    `row` is the row of the batch that showed it.
    """

    row: int
    kind: Literal["gap", "late", "session"]
    stream: str
    channel: str | None
    session: str | None
    first: int | None
    last: int | None
    before_micros: int | None = None
    after_micros: int | None = None


FeedState = Mapping[ChannelKey, ChannelState]


def judge(states: FeedState, rows: pa.RecordBatch, grace: Grace) -> tuple[FeedState, list[Event]]:
    """Judge rows (any batch with the columns stream, channel, session, sequence, previous_sequence, exchange_timestamp
    and receive_timestamp, in order of arrival). Returns the next state and the events in the order of their rows.

    Rows without a channel tell sessions only (kept by stream). A row of a channel without a number of its own, as a
    heartbeat, may announce one: everything up to its `previous_sequence` was sent, so what has not come is a hole.
    Without either it tells nothing.
    """
    after = dict(states)
    events: list[Event] = []
    for part in parts(rows):
        after[part.key], found = _judge_part(after.get(part.key, ChannelState()), part, grace)
        events += found
    return after, sorted(events, key=lambda event: event.row)


def open_holes(states: FeedState, row: int, streams: Mapping[ChannelKey, str]) -> list[Event]:
    """The holes that are still open, as gaps: what a feed that ends has to say. `streams` names each key's stream."""
    return [
        _missing(row, streams[key], key[1], state.session, hole)
        for key, state in states.items()
        for hole in state.holes
    ]


def behind(states: FeedState, rows: pa.RecordBatch) -> Flags:
    """Which of the rows that `judge` would be given have a number that is not above every one of their channel before
    them: they may be recovered too, since the gap that they were missing in may have been told."""
    out = np.zeros(rows.num_rows, dtype=bool)
    if rows.column("channel").null_count == rows.num_rows:
        return out
    for part in parts(rows):
        if part.key[0] != "channel":
            continue
        state = states.get(part.key, ChannelState())
        session, last, closed = state.session, state.last, set(state.closed)
        for run in part.runs():
            code = int(part.session_codes[run.start])
            name = part.sessions[code] if code >= 0 else None
            own = ~part.announced[run]
            if name is not None and name in closed:
                out[part.rows[run][own]] = True
                continue
            if name != session:
                closed |= {session} if session is not None else set()
                session, last = name, None
            highest = np.maximum.accumulate(np.maximum(part.numbers[run], NO_NUMBER if last is None else last))
            before = np.concatenate([[NO_NUMBER if last is None else last], highest[:-1]])
            out[part.rows[run][own & (part.numbers[run] <= before)]] = True
            last = int(highest[-1])
    return out


def merged_late(events: list[Event]) -> list[Event]:
    """The events with runs of late numbers made one, which is where the last of them was."""
    out: list[Event] = []
    for event in events:
        before = out[-1] if out else None
        if before is not None and event == replace(before, row=event.row, first=event.first, last=event.last) and (
            event.kind == "late" and before.last is not None and event.first == before.last + 1
        ):  # fmt: skip
            out[-1] = replace(event, first=before.first)
        else:
            out.append(event)
    return out


def _judge_part(state: ChannelState, part: Part, grace: Grace) -> tuple[ChannelState, list[Event]]:
    events: list[Event] = []
    numbered = part.key[0] == "channel"
    for run in part.runs():
        code = int(part.session_codes[run.start])
        session = part.sessions[code] if code >= 0 else None
        if session is not None and session in state.closed:
            state, found = _stragglers(state, part, run, session)
            events += found
            continue
        if session != state.session:
            state, found = _changed(state, part, run.start, session)
            events += found
        if numbered:
            state, found = _judge_run(state, part, run, grace)
            events += found
    return state, events


def _changed(state: ChannelState, part: Part, place: int, session: str | None) -> tuple[ChannelState, list[Event]]:
    """A new session: nothing can fill the old one's holes any more."""
    events = [_gap(part, place, state, hole) for hole in state.holes]
    if session is not None:
        first = int(part.numbers[place] + part.announced[place]) if part.key[0] == "channel" else None
        channel = part.key[1] if part.key[0] == "channel" else None
        row = int(part.rows[place])
        events.append(Event(row, "session", part.streams[part.stream_codes[place]], channel, session, first, None))
    closed = state.closed if state.session is None else (*state.closed, state.session)[-CLOSED_SESSIONS_KEPT:]
    gaps = _kept(state.gaps, state.session, state.holes)
    return ChannelState(session, closed, messages=state.messages, micros=state.micros, gaps=gaps), events


def _stragglers(state: ChannelState, part: Part, run: slice, session: str) -> tuple[ChannelState, list[Event]]:
    """Messages of a session that is over: they may fill a gap, and say nothing else."""
    events: list[Event] = []
    if any(gap.session == session for gap in state.gaps):
        for place in (run.start + np.flatnonzero(~part.announced[run])).tolist():
            state, found = _late(state, part, place, session)
            events += found
    return state, events


def _judge_run(state: ChannelState, part: Part, run: slice, grace: Grace) -> tuple[ChannelState, list[Event]]:
    numbers, announced, venue_micros = part.numbers[run], part.announced[run], part.venue_micros[run]
    micros = np.maximum.accumulate(np.maximum(part.micros[run], state.micros))
    # An announcement is no message of the channel: no grace passes with it
    messages = state.messages + np.cumsum(~announced)
    last = int(numbers[0]) - int(not announced[0]) if state.last is None else state.last
    last_micros = int(venue_micros[0]) if state.last is None else state.last_micros
    highest = np.maximum.accumulate(np.maximum(numbers, last))
    before = np.concatenate([[last], highest[:-1]])
    holes = list(state.holes)
    events: list[Event] = []

    def expire(upto: int) -> None:
        nonlocal state
        due = [(_expiry(hole, messages, micros, grace), hole) for hole in holes]
        for place, hole in sorted((one for one in due if one[0] <= upto), key=lambda one: (one[0], one[1].first)):
            holes.remove(hole)
            events.append(_gap(part, run.start + place, state, hole))
            state = replace(state, gaps=_kept(state.gaps, state.session, (hole,)))

    def time_of(number: int) -> int:
        """Of the highest number at some place."""
        return last_micros if number == last else int(venue_micros[np.searchsorted(highest, number)])

    for place in np.flatnonzero(np.where(announced, numbers > before, numbers != before + 1)).tolist():
        expire(place)
        number, expected, now = int(numbers[place]), int(before[place]) + 1, int(venue_micros[place])
        missing = number if announced[place] else number - 1
        if missing >= expected:
            shown = (int(messages[place]), int(micros[place]))
            holes.append(Hole(expected, missing, *shown, time_of(expected - 1), now))
        elif not announced[place]:
            holes[:] = [rest for hole in holes for rest in _without(hole, number, now)]
            state, found = _late(state, part, run.start + place, state.session)
            events += found
    expire(len(numbers) - 1)
    after = replace(
        state,
        last=int(highest[-1]),
        last_micros=time_of(int(highest[-1])),
        messages=int(messages[-1]),
        micros=int(micros[-1]),
        holes=tuple(holes),
    )
    return after, events


def _expiry(hole: Hole, messages: Int64s, micros: Int64s, grace: Grace) -> int:
    """Place in the run of the row at which the hole becomes a gap; len(run) or more when that is later."""
    by_messages = int(np.searchsorted(messages, hole.opened_at + grace.messages, side="right"))
    deadline = hole.opened_micros + int(grace.seconds * MICROS_PER_SECOND)
    by_time = int(np.searchsorted(micros, deadline, side="right"))
    return min(by_messages, by_time)


def _without(hole: Hole, number: int, micros: int) -> list[Hole]:
    if not hole.first <= number <= hole.last:
        return [hole]
    rests = [replace(hole, last=number - 1, after_micros=micros), replace(hole, first=number + 1, before_micros=micros)]
    return [rest for rest in rests if rest.first <= rest.last]


def _kept(gaps: tuple[Gap, ...], session: str | None, holes: tuple[Hole, ...]) -> tuple[Gap, ...]:
    return (*gaps, *(Gap(session, hole.first, hole.last) for hole in holes))[-GAPS_KEPT:]


def _late(state: ChannelState, part: Part, place: int, session: str | None) -> tuple[ChannelState, list[Event]]:
    """What a number that is not the next one says of the gaps that were told."""
    number = int(part.numbers[place])
    filled = next((gap for gap in state.gaps if gap.session == session and gap.first <= number <= gap.last), None)
    if filled is None:
        return state, []
    rests = [replace(filled, last=number - 1), replace(filled, first=number + 1)]
    left = [rest for rest in rests if rest.first <= rest.last]
    at = state.gaps.index(filled)
    gaps = (*state.gaps[:at], *left, *state.gaps[at + 1 :])[-GAPS_KEPT:]
    row, stream = int(part.rows[place]), part.streams[part.stream_codes[place]]
    return replace(state, gaps=gaps), [Event(row, "late", stream, part.key[1], session, number, number)]


def _gap(part: Part, place: int, state: ChannelState, hole: Hole) -> Event:
    return _missing(int(part.rows[place]), part.streams[part.stream_codes[place]], part.key[1], state.session, hole)


def _missing(row: int, stream: str, channel: str, session: str | None, hole: Hole) -> Event:
    before, after = (None if micros == NO_TIME else micros for micros in (hole.before_micros, hole.after_micros))
    return Event(row, "gap", stream, channel, session, hole.first, hole.last, before, after)
