"""Being asked to stop: an event that whatever waits looks at, and the parts of a process that a stop should not cut.

A process that was told to end must do so within seconds, whichever server is away at that moment. So nothing waits
longer than a slice of time without a look at the event, and a server that was slow before is not waited for any more.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# For whoever cannot be stopped: an event that nobody sets.
NEVER = threading.Event()


class Section:
    """Code that is better not cut short: between the beginning of an append and the knowledge of its outcome.

    A process that dies there is safe, like anywhere; but the next one has to find out what happened. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    @property
    def occupied(self) -> bool:
        """Whether some thread is in it."""
        return self._inside > 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be in it for the time of the block."""
        with self._lock:
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1


APPENDING = Section()
