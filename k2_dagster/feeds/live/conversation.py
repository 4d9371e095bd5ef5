"""What to do next on one connection: subscribe, wait for acknowledgements, keep books whole, notice silence.

Pure decisions: everything that happened is told with its time (monotonic seconds), what is to be done is returned.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from k2_dagster.feeds.live.asking import Asking
from k2_dagster.feeds.live.venue import Message, Topic, Venue

# Venues acknowledge within a second; a busy one needs a few.
ACKNOWLEDGE_SECONDS = 15.0
# Names in a reason; the rest is counted.
NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Send:
    """Send these on the connection."""

    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch the book snapshot of a symbol from the venue's other interface."""

    symbol: str


@dataclass(frozen=True, slots=True)
class TellBook:
    """Put on record that a book cannot be continued (`ended`), or can (`started`)."""

    symbol: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """These topics, which were there before, are refused now: the others go on."""

    topics: tuple[Topic, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Give the connection up, and connect anew."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The venue never had these topics: nothing will become better by itself."""

    topics: tuple[Topic, ...]
    reason: str


Action = Send | Fetch | TellBook | LeftOut | Drop | Refuse


class Conversation:
    """One connection from its first message on. `known` are the topics that the venue acknowledged before, on any
    connection of this run; it is added to."""

    def __init__(
        self,
        venue: Venue,
        symbols: Sequence[str],
        known: set[Topic],
        now: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._venue = venue
        self._symbols = frozenset(symbols)
        self._topics = venue.topics(symbols)
        self._pending = dict.fromkeys(self._topics)
        self._known = known
        self._books = venue.books()
        self._asking = Asking()
        self._chance = chance
        self._deadline = now + ACKNOWLEDGE_SECONDS
        self._heard = now
        self._probed: float | None = None
        if venue.ask_again is not None:
            for symbol in symbols:
                self._asking.expect(symbol, now)

    @property
    def is_acknowledged(self) -> bool:
        """Whether every topic was acknowledged or left out."""
        return not self._pending

    @property
    def waiting_books(self) -> int:
        """Symbols whose book has no usable snapshot."""
        return self._asking.waiting

    @property
    def heard_at(self) -> float:
        """When the newest frame came, or the connection began."""
        return self._heard

    def greet(self) -> list[Action]:
        """The first messages of the connection."""
        return [Send(self._venue.subscribe(self._topics))]

    def heard(self, now: float) -> None:
        """A frame came, whatever it was."""
        self._heard, self._probed = now, None

    def replied(self, message: Any) -> list[Action]:
        """A message came that is no market event. Raises one of `block.DAMAGE` when it is not what the venue sends."""
        reply = self._venue.reply(message, self._topics)
        if reply is None:
            return []
        for topic in reply.acknowledged:
            if topic in self._topics:
                self._pending.pop(topic, None)
                self._known.add(topic)
        if not reply.failure:
            return []
        if not reply.refused:
            # Nobody knows what it was about. What is not acknowledged in time shows it
            return [] if self.is_acknowledged else [Drop(f"the venue says: {reply.failure}")]
        return self._refused(reply.refused, reply.failure)

    def book(self, stream: str, data: Any, now: float) -> list[Action]:
        """A book message came. Raises one of `block.DAMAGE` when it is damaged."""
        finding = self._books.look(stream, data)
        if finding is None or finding.symbol not in self._symbols:
            return []
        if finding.state == "synchronised":
            self._asking.got(finding.symbol)
            return [TellBook(finding.symbol, "started", finding.reason)]
        self._asking.want(finding.symbol, now, self._chance())
        if finding.state == "wanted":
            return []
        return [TellBook(finding.symbol, "ended", f"{finding.reason}; a snapshot is asked for")]

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        if self._pending and now >= self._deadline:
            return [Drop(f"no acknowledgement within {ACKNOWLEDGE_SECONDS:g} s of {_names(self._pending)}")]
        if self._is_dead(now):
            return [Drop(f"nothing came for {now - self._heard:.1f} s")]
        actions = [self._ask(symbol) for symbol in self._asking.due(now, self._chance())]
        silent = now - self._heard >= self._venue.silence_seconds
        if silent and self._venue.probe is not None and self._probed is None:
            self._probed = now
            actions.append(Send([self._venue.probe]))
        return actions

    def _is_dead(self, now: float) -> bool:
        """A probe has its time to be answered, also when we ourselves were busy in the silence before it."""
        silence = self._venue.silence_seconds
        if self._venue.probe is None:
            return now - self._heard >= 2 * silence
        return self._probed is not None and now - self._probed >= silence

    def _ask(self, symbol: str) -> Action:
        ask_again = self._venue.ask_again
        return Fetch(symbol) if ask_again is None else Send(ask_again(symbol))

    def _refused(self, topics: tuple[Topic, ...], reason: str) -> list[Action]:
        pending = tuple(topic for topic in topics if topic in self._pending)
        unknown = tuple(topic for topic in pending if topic not in self._known)
        if unknown:
            return [Refuse(unknown, reason)]
        for topic in pending:
            del self._pending[topic]
        return [LeftOut(pending, reason)] if pending else []


def _names(topics: Iterable[Topic]) -> str:
    names = [f"{channel} {symbol}" for channel, symbol in topics]
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
