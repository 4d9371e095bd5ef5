"""Which of the packets of several lines are delivered, and in which order: a decision without sockets or clocks.

Lines carry the same numbered messages. The first copy of a number wins, whichever line it came on, and numbers are
delivered in their order. What none has brought is waited for, within limits, then given up; it is delivered late if it
comes after that. Nobody else may decide from the times: they are given.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from k2_dagster.feeds.lines.figures import LineFigures, LineSession, note_packet
from k2_dagster.feeds.lines.intervals import Intervals
from k2_dagster.feeds.mold.packets import Packet

# Sessions in which a number can still be told from its repetition: the current one, and those that a slow line may
# still bring. Venues begin a session a few times a day.
SESSIONS_KEPT = 4
# Names of the sessions before them; their packets are dropped, and counted.
NAMES_KEPT = 64
# Runs of numbers that were given up and are remembered, per session. The oldest are forgotten, and counted; what comes
# of those is taken for a repetition.
GIVEN_UP_RUNS_KEPT = 10_000
NANOS_PER_SECOND = 1_000_000_000
# When one line has said that the session is over, the others have so long to say it: what one of them lost last is only
# known then. Venues say it again and again for seconds.
ENDS_APART_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How long numbers that are missing on all lines hold the others up: so long, or until so many messages wait."""

    wait_seconds: float
    messages: int


@dataclass(frozen=True, slots=True, order=True)
class Delivery:
    """Messages with the numbers `sequence`, `sequence` + 1, ... of a session: `late` when later ones were delivered.
    Without messages it says that everything below `sequence` was sent."""

    sequence: int
    session: str
    line: str
    nanos: int
    messages: tuple[bytes, ...] = ()
    late: bool = False

    @property
    def next_sequence(self) -> int:
        """The number behind its messages."""
        return self.sequence + len(self.messages)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Numbers of a session that are missing on all lines and are still waited for, and since when."""

    session: str
    first: int
    last: int
    since_nanos: int


@dataclass
class _Session:
    name: str
    # Where it began for us: nothing below was waited for
    start: int
    cursor: int
    # What a packet said was sent, and when that was first said
    announced: int = 0
    announced_nanos: int = 0
    # Which lines have said that it is over, and when the first one did
    over_on: set[str] = field(default_factory=set)
    over_nanos: int = 0
    # Delivered, or waiting to be
    seen: Intervals = field(default_factory=Intervals)
    waiting: list[Delivery] = field(default_factory=list)
    lines: dict[str, LineSession] = field(default_factory=dict)

    @property
    def blocked_since(self) -> int | None:
        """Since when the number at the cursor is missing though a later one was sent; None when it is not."""
        if self.waiting:
            return self.waiting[0].nanos
        return self.announced_nanos if self.announced >= self.cursor else None


class Arbiter:
    """The state of one channel. Give it every valid packet with the time of its receiving (`offer`), and the time when
    nothing came (`tick`); both return what is delivered now, in order."""

    def __init__(self, lines: Iterable[str], limits: Limits, others: Iterable[str] = ()) -> None:
        """`lines` should bring everything; `others` bring what they are asked for, and miss nothing."""
        self.figures = {line: LineFigures() for line in lines}
        self._others = set(others)
        self.figures |= {line: LineFigures() for line in self._others}
        # Numbers that were given up, how many of them came late, and those of them that are not remembered
        self.given_up = 0
        self.late = 0
        self.forgotten = 0
        # Messages from below the number that a session began with for us
        self.early = 0
        self._limits = limits
        self._nanos = 0
        self._sessions: dict[str, _Session] = {}
        self._ended: deque[str] = deque(maxlen=NAMES_KEPT)
        self._waiting = 0

    @property
    def session(self) -> str | None:
        """The newest session."""
        return next(reversed(self._sessions), None)

    @property
    def is_over(self) -> bool:
        """Whether the newest session has ended on all lines that are alive, and nothing of it is waited for."""
        newest = self._sessions[self.session] if self.session is not None else None
        if newest is None or not newest.over_on or newest.blocked_since is not None:
            return False
        everywhere = newest.over_on >= self.figures.keys() - self._others
        return everywhere or self._nanos - newest.over_nanos > ENDS_APART_SECONDS * NANOS_PER_SECOND

    def begin(self, session: str, next_sequence: int) -> None:
        """Begin with this number of a session of which nothing was offered yet (it follows a snapshot); what is below
        is not waited for."""
        self._sessions[session] = _Session(session, next_sequence, next_sequence)

    def offer(self, line: str, packet: Packet, nanos: int) -> list[Delivery]:
        """A packet that came on a line."""
        self._nanos = max(self._nanos, nanos)
        figures = self.figures[line]
        figures.packets += 1
        figures.messages += len(packet.messages)
        if packet.session in self._ended:
            figures.stale += len(packet.messages)
            return []
        out = self._turned_to(packet, nanos)
        session = self._sessions[packet.session]
        if line not in self._others:
            note_packet(figures, session.lines.setdefault(line, LineSession(packet.sequence)), packet)
        if packet.next_sequence - 1 > session.announced:
            session.announced, session.announced_nanos = packet.next_sequence - 1, nanos
        if packet.kind == "data":
            out += self._take(session, line, packet, nanos)
        else:
            figures.heartbeats += packet.kind == "heartbeat"
            if packet.kind == "end":
                session.over_nanos = session.over_nanos if session.over_on else nanos
                session.over_on.add(line)
            if session.blocked_since is None and session.cursor == packet.sequence:
                out.append(Delivery(packet.sequence, session.name, line, nanos))
        while self._waiting > self._limits.messages:
            out += self._give_up(next(one for one in self._sessions.values() if one.waiting), nanos)
        return out

    def tick(self, nanos: int) -> list[Delivery]:
        """Time has come this far."""
        self._nanos = max(self._nanos, nanos)
        out: list[Delivery] = []
        patience = int(self._limits.wait_seconds * NANOS_PER_SECOND)
        for session in self._sessions.values():
            while (since := session.blocked_since) is not None and nanos - since > patience:
                out += self._give_up(session, nanos)
        return out

    def finish(self, nanos: int) -> list[Delivery]:
        """Nothing comes any more: what waits is delivered."""
        return [one for session in self._sessions.values() for one in self._rest(session, nanos)]

    def wanted(self) -> list[Wanted]:
        """What could be asked for, in order."""
        out = []
        for session in self._sessions.values():
            since = session.blocked_since
            if since is not None:
                ranges = session.seen.gaps(session.cursor, session.announced)
                out += [Wanted(session.name, first, last, since) for first, last in ranges]
        return out

    def _turned_to(self, packet: Packet, nanos: int) -> list[Delivery]:
        """Make the session known. A new one ends those before it: what waits in them is delivered first."""
        if packet.session in self._sessions:
            return []
        out = self.finish(nanos)
        self._sessions[packet.session] = _Session(packet.session, packet.sequence, packet.sequence)
        while len(self._sessions) > SESSIONS_KEPT:
            oldest = next(iter(self._sessions))
            del self._sessions[oldest]
            self._ended.append(oldest)
        return out

    def _take(self, session: _Session, line: str, packet: Packet, nanos: int) -> list[Delivery]:
        figures = self.figures[line]
        new = session.seen.add(packet.sequence, packet.next_sequence - 1)
        won = sum(last - first + 1 for first, last in new)
        figures.won += won
        figures.duplicates += len(packet.messages) - won
        out: list[Delivery] = []
        for first, last in new:
            messages = packet.messages[first - packet.sequence : last + 1 - packet.sequence]
            before = max(0, min(len(messages), session.cursor - first))
            if before:
                out.append(Delivery(first, session.name, line, nanos, messages[:before], late=True))
                early = max(0, min(before, session.start - first))
                figures.late += before - early
                self.late += before - early
                self.early += early
            if before < len(messages):
                insort(session.waiting, Delivery(first + before, session.name, line, nanos, messages[before:]))
                self._waiting += len(messages) - before
        while len(session.seen) > GIVEN_UP_RUNS_KEPT:
            self.forgotten += session.seen.close_oldest_gap()
        return out + list(self._ready(session))

    def _ready(self, session: _Session) -> Iterator[Delivery]:
        """What is due: the message at the cursor, and those behind it without a hole between."""
        count = 0
        while count < len(session.waiting) and session.waiting[count].sequence == session.cursor:
            session.cursor = session.waiting[count].next_sequence
            count += 1
        ready = session.waiting[:count]
        del session.waiting[:count]
        self._waiting -= sum(len(one.messages) for one in ready)
        return iter(ready)

    def _give_up(self, session: _Session, nanos: int) -> list[Delivery]:
        """Go on behind the numbers at the cursor that did not come."""
        if session.waiting:
            self.given_up += session.waiting[0].sequence - session.cursor
            session.cursor = session.waiting[0].sequence
            return list(self._ready(session))
        self.given_up += session.announced + 1 - session.cursor
        session.cursor = session.announced + 1
        return [Delivery(session.cursor, session.name, "", nanos)]

    def _rest(self, session: _Session, nanos: int) -> Iterator[Delivery]:
        while session.blocked_since is not None:
            yield from self._give_up(session, nanos)
