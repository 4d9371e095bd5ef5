"""Work that ends within seconds of being asked to, whatever it waits for at that moment.

What K2 waits for itself, it waits for in slices (`observability/stopping.py`). What is left are libraries that wait in
foreign code: object storage that does not answer, a name that does not resolve. So the work runs in a thread of its
own, the caller's thread stays free for signals, and when the time is over it goes on without the work. The process
should end then, at once: like a kill, that is safe at any moment, by the order of every commit.
"""

import logging
import threading
import time
from collections.abc import Callable

from k2_dagster.errors import StopOverdue
from k2_dagster.observability.stopping import APPENDING
from k2_dagster.observability.work import Outcome, Work

logger = logging.getLogger(__name__)

# Five seconds are promised, and a process needs a moment to end.
STOP_SECONDS = 4.5
# An append that is under way is worth waiting for: its outcome need not be looked for by the next process.
APPEND_SECONDS = 9.0
POLL_SECONDS = 0.05


def stoppable(work: Callable[[], Outcome], stop: threading.Event) -> Outcome:
    """Do the work, which listens to `stop`; call it from the main thread. Returns or raises what the work does.

    Raises StopOverdue when it has not ended STOP_SECONDS after the stop (APPEND_SECONDS inside an append). It goes on
    in a daemon thread then, until the process ends.
    """
    running = Work(work, "k2-work")
    running.start()
    asked_at: float | None = None
    while running.is_alive():
        running.join(POLL_SECONDS)
        if not stop.is_set():
            continue
        asked_at = asked_at or time.monotonic()
        limit_seconds = APPEND_SECONDS if APPENDING.occupied else STOP_SECONDS
        if running.is_alive() and time.monotonic() - asked_at > limit_seconds:
            raise StopOverdue(
                f"the work did not end within {limit_seconds:g} s of being asked to",
                advice="a server did not answer; nothing is lost, and the next start goes on from the fence",
            )
    return running.outcome()
