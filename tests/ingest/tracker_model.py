"""The tracker as a plain model, message by message."""

from dataclasses import dataclass
from typing import Any

from k2_dagster.ingest import kernel
from k2_dagster.ingest.channel_numbers import MAX_NUMBERS_PER_KEY
from k2_dagster.ingest.recent import MAX_RECENT
from k2_dagster.ingest.sessions import MS_PER_DAY
from k2_dagster.ingest.terms import Terms
from k2_dagster.state.tracked import CHANNEL, PUBLISHER, VENUE
from tests.ingest.channel_model import Channels
from tests.ingest.oracle import Oracle, Row

TERMS = Terms(grace_messages=3, grace_ms=2 * MS_PER_DAY, horizon_days=2, jump_above=12)
FAR = (TERMS.jump_above, TERMS.jump_above)  # no key of the model is sparse
BACK = {kernel.GOOD: kernel.RETURNED, kernel.REFUSED: kernel.RETURNED_REFUSED}
FIELDS = {VENUE: "sequence", PUBLISHER: "publisher_sequence"}
HORIZON_MS = 2 * MS_PER_DAY
STRICT = frozenset({1})


@dataclass(frozen=True)
class Message:
    """One message, as the tracker sees it. `sequence` None: the stream is not judged by the venue's numbers.

    `shared` is its number in a channel, if it has one; `is_aside` says that it is not in the channel's order;
    `is_returned` that it comes back from quarantine.
    """

    offset: int
    partition: int = 0
    time_ms: int = 0
    flag: int = kernel.GOOD
    symbol: str | None = "A"
    session: str | None = "s"
    sequence: int | None = 1
    publisher: str | None = "p"
    number: int = 1
    stream: str = "trade"
    shared: int | None = None
    channel: str = "1"
    is_aside: bool = False
    is_returned: bool = False


class Sessions:
    """When each session was last heard of, and when the newest of its stream began."""

    def __init__(self) -> None:
        self.last: dict[Any, int] = {}
        self.newest: dict[Any, int] = {}

    def is_old(self, stream: Any, session: str | None, now: int) -> bool:
        """Notes the session, unless it is old."""
        name = (stream, session)
        before = self.last.get(name)
        if before is None:
            self.newest[stream] = max(now, self.newest.get(stream, now))
        elif now - before > HORIZON_MS and self.newest[stream] > before:
            return True
        self.last[name] = now
        return False


class Model:
    """The tracker, message by message."""

    def __init__(self) -> None:
        self.oracles = {name: Oracle(TERMS.grace_messages, TERMS.grace_ms, FAR) for name in (VENUE, PUBLISHER)}
        self.sessions = {VENUE: Sessions(), PUBLISHER: Sessions(), CHANNEL: Sessions()}
        self.shared = Channels(MAX_NUMBERS_PER_KEY, MAX_RECENT)
        self.now: dict[int, int] = {}
        self.verdicts: list[int] = []
        self.jumps: dict[int, tuple[str, int]] = {}

    def judge(self, one: Message) -> None:
        now = self.now[one.partition] = max(one.time_ms, self.now.get(one.partition, one.time_ms))
        readable = one.flag != kernel.UNREADABLE
        taking_part = {
            VENUE: readable and one.sequence is not None,
            PUBLISHER: readable and one.publisher is not None,
        }
        named = {VENUE: one.session, PUBLISHER: one.publisher}
        old = {
            name: part and self.sessions[name].is_old(one.partition, named[name], now)
            for name, part in taking_part.items()
        }
        flags = {
            name: kernel.SKIPPED if readable and (not part or old[name]) else one.flag
            for name, part in taking_part.items()
        }
        numbers = {VENUE: one.sequence or 0, PUBLISHER: one.number}
        starts = {VENUE: kernel.NEVER, PUBLISHER: 0 if one.partition in STRICT else kernel.NEVER}
        keys: dict[str, tuple[Any, ...]] = {
            VENUE: (one.partition, "trade", "trade", one.session, one.symbol),
            PUBLISHER: (one.partition, one.publisher, one.symbol),
        }
        symbol = None if one.symbol is None else (one.partition, one.symbol)
        for name, oracle in self.oracles.items():
            last, flag = numbers[name], flags[name]
            if name == PUBLISHER and flag == kernel.GOOD and self.oracles[VENUE].verdicts[-1] == kernel.JUMP:
                flag = kernel.REFUSED
            flag = BACK.get(flag, flag) if one.is_returned else flag
            place = (one.partition, one.offset, one.time_ms)
            oracle.judge(Row(keys[name], last, last - 1, flag, symbol, *place, start=starts[name]))
        # The publisher's numbers decide on a refused message that has some
        by_pair = one.flag == kernel.REFUSED and one.publisher is not None
        mine = VENUE if one.sequence is not None and not by_pair else PUBLISHER
        verdict = kernel.HORIZON if old[mine] else self.oracles[mine].verdicts[-1]
        if one.shared is not None and one.flag == kernel.GOOD and verdict in (kernel.IN_ORDER, kernel.LATE):
            verdict = self._judge_shared(one, one.shared, now) or verdict
        self.verdicts.append(verdict)
        if verdict == kernel.JUMP:
            self.jumps[one.offset] = (FIELDS[mine], self.oracles[mine].jumps[one.offset])

    def _judge_shared(self, one: Message, number: int, now: int) -> int:
        if self.sessions[CHANNEL].is_old(one.partition, one.session, now):
            return kernel.HORIZON
        key = (one.partition, one.session, one.symbol)
        return self.shared.judge(one.partition, key, number, is_aside=one.is_aside)
