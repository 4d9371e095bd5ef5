"""Asks the retransmission server for what no line brought: when and for what, and the thread that does it."""

import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from k2_dagster.errors import VenueUnavailable
from k2_dagster.feeds.lines.arbitration import NANOS_PER_SECOND, Wanted
from k2_dagster.feeds.lines.intake import Intake
from k2_dagster.feeds.mold.packets import Packet
from k2_dagster.feeds.mold.requests import MOST_REQUESTED, Refusal, Request
from k2_dagster.feeds.retransmission.client import Address, ask_packet, ask_range, is_temporary, wait_seconds

RETRANSMISSION = "retransmission"
# A line may be a few milliseconds behind the other: what both lost is asked for after this.
ASK_AFTER_SECONDS = 0.02
# An answer that did not come is asked for again.
ASK_AGAIN_SECONDS = 0.3
# Up to so many messages by UDP, a packet at a time; more by TCP.
SMALL_MESSAGES = 50
# Holes that lie so near to each other are asked for together.
NEAR_MESSAGES = 50
# Requests that wait for the server; what does not fit is asked for at the next look.
QUEUE_REQUESTS = 64
# Ranges that were asked for and are remembered, the newest.
RANGES_KEPT = 10_000
# A server that did not answer is left alone for so long.
AWAY_SECONDS = 0.25
POLL_SECONDS = 0.1


class AskPlan:
    """When to ask for what: a decision over what is wanted and the time. Not for several threads."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, int, int], int] = {}

    def due(self, wanted: Iterable[Wanted], nanos: int) -> list[Request]:
        """What to ask for now, and counts as asked. One request spans holes that are near to each other: after a burst
        of loss a server would refuse one for each."""
        spans: list[tuple[str, int, int]] = []
        for one in wanted:
            if not self._is_due(one, nanos):
                continue
            session, first, last = spans[-1] if spans else ("", 0, 0)
            is_near = one.session == session and one.first - last <= NEAR_MESSAGES
            if is_near and one.last - first < MOST_REQUESTED:
                spans[-1] = session, first, one.last
            else:
                spans.append((one.session, one.first, one.last))
        return [Request(session, first, min(MOST_REQUESTED, last + 1 - first)) for session, first, last in spans]

    def _is_due(self, one: Wanted, nanos: int) -> bool:
        key = one.session, one.first, one.last
        asked = self._asked.get(key)
        is_old = nanos - one.since_nanos >= ASK_AFTER_SECONDS * NANOS_PER_SECOND
        if not is_old or (asked is not None and nanos - asked < ASK_AGAIN_SECONDS * NANOS_PER_SECOND):
            return False
        self._asked.pop(key, None)
        self._asked[key] = nanos
        while len(self._asked) > RANGES_KEPT:
            self._asked.pop(next(iter(self._asked)))
        return True


@dataclass
class AskReport:
    """Requests that were sent, refused and not answered; `last_refusal` in words."""

    requests: int = 0
    refused: int = 0
    failures: int = 0
    last_refusal: str = ""


class Asker:
    """Asks in a thread of its own, one request after another; answers go into the intake. Works in the `with` block."""

    def __init__(self, address: Address, intake: Intake) -> None:
        self.report = AskReport()
        self._address = address
        self._intake = intake
        self._plan = AskPlan()
        self._requests: queue.Queue[Request] = queue.Queue(QUEUE_REQUESTS)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retransmission", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def want(self, wanted: Iterable[Wanted], nanos: int) -> None:
        """Ask for what is due of it."""
        for request in self._plan.due(wanted, nanos):
            try:
                self._requests.put_nowait(request)
            except queue.Full:
                return

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                request = self._requests.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            self._ending.wait(self._ask(request))

    def _ask(self, request: Request) -> float:
        """Returns for how long the server wants to be left alone, in seconds."""
        self.report.requests += 1
        try:
            if request.count <= SMALL_MESSAGES:
                return self._answered(ask_packet(self._address, request))
            return max((self._answered(one) for one in ask_range(self._address, request)), default=0.0)
        except VenueUnavailable as error:
            self.report.failures += 1
            self.report.last_refusal = error.message
            return AWAY_SECONDS

    def _answered(self, answer: Packet | Refusal) -> float:
        if isinstance(answer, Refusal):
            self.report.refused += 1
            self.report.last_refusal = f"{answer.reason.name.lower()} ({time.strftime('%H:%M:%S', time.gmtime())} UTC)"
            return wait_seconds(answer) if is_temporary(answer) else 0.0
        self._intake.put(RETRANSMISSION, answer)
        return 0.0
