"""A stream with its troubles: when it may try again, and what is on record about it while it cannot go on.

Both drivers use it. No error of one stream reaches the others, and none is for ever: a transient one is tried again
with backoff, anything else every minute, so that whoever mends it (`k2 init`, `k2 ingest accept-loss`, a schema that is
registered) need not restart anything.
"""

import logging
import threading
import time

from k2_dagster.errors import (
    DatabaseUnavailable,
    K2Error,
    RegistryUnavailable,
    SchemaUnknown,
    TerminalError,
    TransientError,
)
from k2_dagster.ingest.pipeline import OnCommit
from k2_dagster.ingest.stream import StreamDrain
from k2_dagster.state.stream_states import Condition, StreamState, clear_state, record_state

logger = logging.getLogger(__name__)

# Backoff with a transient error, doubled each time. The longest is what a server that comes back may cost in freshness.
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
# Retrying does not mend a terminal error, a person does: how soon that is noticed.
HALTED_RETRY_SECONDS = 60.0

WAITING_FOR_A_SCHEMA = (SchemaUnknown, RegistryUnavailable)


class Driven:
    """One stream under a driver. `trouble` is what it met at its last turn, `troubled_since` (monotonic seconds) when
    that began; `ready_at` is when it may have its next turn."""

    def __init__(self, stream: StreamDrain, driver: str) -> None:
        self.stream = stream
        self.driver = driver
        self.trouble: K2Error | None = None
        self.troubled_since = 0.0
        self.ready_at = 0.0
        self._failures = 0
        # an earlier driver may have left something
        self._on_record = True

    @property
    def halted(self) -> bool:
        """Whether trying again will not help until somebody changes something."""
        return isinstance(self.trouble, TerminalError)

    @property
    def waits_for_schema(self) -> bool:
        """Whether all that is missing is a schema from the registry."""
        return isinstance(self.trouble, WAITING_FOR_A_SCHEMA)

    def turn(self, stop: threading.Event, deadline: float | None, on_commit: OnCommit) -> bool:
        """Let the stream drain. Returns whether it is caught up. Never raises for the stream: see `trouble`."""
        try:
            caught_up = self.stream.drain(stop, deadline, on_commit)
        except K2Error as error:
            self.failed(error, stop)
            return False
        except Exception as error:
            logger.exception("unexpected error", extra={"stream": self.stream.name})
            self.failed(_unexpected(self.stream.name, error), stop)
            return False
        if not stop.is_set():
            self._succeeded()
        return caught_up

    def failed(self, error: K2Error, stop: threading.Event) -> None:
        """Take note of an error. One that comes of being stopped is none: whatever waits then is cut short."""
        known = {"stream": self.stream.name, "why": error.message}
        if stop.is_set() and isinstance(error, TransientError):
            logger.info("stream stopped while it waited", extra=known)
            return
        self._failures += 1
        if type(error) is not type(self.trouble):
            self.troubled_since = time.monotonic()
        self.trouble = error
        wait = HALTED_RETRY_SECONDS if self.halted else self._backoff()
        self.ready_at = time.monotonic() + wait
        condition: Condition = "halted" if self.halted else "waiting" if self.waits_for_schema else "retrying"
        level = logging.ERROR if self.halted else logging.WARNING
        logger.log(level, "stream %s", condition, extra={**known, "again_in_seconds": wait})
        self._record(StreamState(condition, type(error).__name__, error.message, error.advice, self.driver))

    def postpone(self, seconds: float) -> None:
        """No turn for so long."""
        self.ready_at = time.monotonic() + seconds

    def _succeeded(self) -> None:
        self._failures = 0
        self.trouble = None
        if self._on_record:
            self._record(None)

    def _backoff(self) -> float:
        # the exponent is bounded too: a stream may fail for weeks
        return min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(self._failures - 1, 16))

    def _record(self, state: StreamState | None) -> None:
        if state is not None and state.error == DatabaseUnavailable.__name__:
            self._on_record = True
            return  # that is where it would be written
        database, stream = self.stream.connections.database, self.stream
        try:
            if state is None:
                clear_state(database, stream.exchange, stream.dataset)
            else:
                record_state(database, stream.exchange, stream.dataset, state)
        except K2Error as error:
            logger.warning("state of stream not recorded", extra={"stream": stream.name, "why": error.message})
            self._on_record = True
            return
        self._on_record = state is not None


def _unexpected(name: str, error: Exception) -> TerminalError:
    found = TerminalError(
        f"{name}: unexpected {type(error).__name__}: {error}",
        advice="a defect of K2: report it with the log; the stream is tried again every minute",
    )
    found.__cause__ = error
    return found
