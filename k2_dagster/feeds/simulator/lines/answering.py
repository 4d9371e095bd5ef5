"""What a retransmission server answers: a decision over its history, the request and the time."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from k2_dagster.feeds.mold.requests import Reason, Refusal, Request

# What the server still has, whichever bound is met first: some minutes of a busy channel.
HISTORY_MESSAGES = 500_000
HISTORY_BYTES = 128_000_000
# Removed at once when a bound is met, so that it does not cost with every message.
HISTORY_STEP = 10_000
# Requests of one client, and how many it may make at once after a pause.
REQUESTS_PER_SECOND = 50.0
REQUESTS_AT_ONCE = 100
# Clients whose rate is known, the newest. One that is forgotten begins anew.
CLIENTS_KEPT = 1_000
# Messages of one TCP request; whoever wants more asks again, and counts against the rate.
MESSAGES_PER_REQUEST = 20_000
MILLISECONDS_PER_SECOND = 1_000


class History:
    """The newest messages of a session, numbered from 1. For several threads."""

    def __init__(self, session: str, most_messages: int = HISTORY_MESSAGES, most_bytes: int = HISTORY_BYTES) -> None:
        self.session = session
        self._most_messages, self._most_bytes = most_messages, most_bytes
        self._messages: list[bytes] = []
        self._first = 1
        self._bytes = 0
        self._lock = threading.Lock()

    def append(self, messages: list[bytes]) -> None:
        """The next messages."""
        with self._lock:
            self._messages += messages
            self._bytes += sum(len(one) for one in messages)
            while len(self._messages) > self._most_messages or self._bytes > self._most_bytes:
                step = max(1, min(HISTORY_STEP, len(self._messages) - self._most_messages))
                self._bytes -= sum(len(one) for one in self._messages[:step])
                self._first += step
                del self._messages[:step]

    @property
    def bounds(self) -> tuple[int, int]:
        """The first number that is there, and the one that comes next."""
        with self._lock:
            return self._first, self._first + len(self._messages)

    def messages(self, first: int, count: int) -> list[bytes]:
        """Messages from number `first` on, at most so many. Empty when the first of them is not there."""
        with self._lock:
            at = first - self._first
            return self._messages[at : at + count] if at >= 0 else []


@dataclass(slots=True)
class _Bucket:
    tokens: float
    seconds: float


class Rates:
    """How often each client asks. Not for several threads."""

    def __init__(self, per_second: float = REQUESTS_PER_SECOND, at_once: int = REQUESTS_AT_ONCE) -> None:
        self._per_second, self._at_once = per_second, at_once
        self._clients: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_seconds(self, client: str, now_seconds: float) -> float:
        """0 when the client may ask now (which is counted); else how long it has to wait until it may."""
        bucket = self._clients.setdefault(client, _Bucket(float(self._at_once), now_seconds))
        self._clients.move_to_end(client)
        while len(self._clients) > CLIENTS_KEPT:
            self._clients.popitem(last=False)
        grown = max(0.0, now_seconds - bucket.seconds) * self._per_second
        bucket.tokens = min(float(self._at_once), bucket.tokens + grown)
        bucket.seconds = now_seconds
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return 0.0
        return (1 - bucket.tokens) / self._per_second


def refused(request: Request, session: str, bounds: tuple[int, int], wait_seconds: float) -> Refusal | None:
    """The refusal of a request, None when it is answered. `bounds`: the first number that is there, and the next."""
    available, following = bounds

    def say(reason: Reason, wait_milliseconds: int = 0) -> Refusal:
        return Refusal(request.session, request.sequence, reason, wait_milliseconds, available, following)

    if wait_seconds > 0:
        return say(Reason.TOO_MANY, int(wait_seconds * MILLISECONDS_PER_SECOND) + 1)
    if request.session != session:
        return say(Reason.OTHER_SESSION)
    if request.sequence >= following:
        return say(Reason.NOT_SENT)
    if request.sequence < available:
        return say(Reason.EXPIRED)
    return None
