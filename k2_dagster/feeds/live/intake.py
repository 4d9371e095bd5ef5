"""What came in and waits to be published: a queue with a bound in frames and bytes, between the socket and the feed."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

# A second or two of the busiest venue. When it is full the socket is not read any more: the venue's own buffer fills,
# and a venue that does not wait disconnects, which is then on record.
QUEUE_FRAMES = 20_000
# Snapshots of full books are a megabyte each.
QUEUE_BYTES = 67_108_864


@dataclass(frozen=True, slots=True)
class Arrival:
    """One thing that happened on a connection, in order: it began, `payload` came or was sent, a snapshot was fetched,
    it ended (`payload` says why)."""

    kind: Literal["connected", "received", "sent", "snapshot", "ended"]
    nanos: int
    payload: bytes = b""


class Intake:
    """Filled by several threads, emptied by one."""

    def __init__(self, frames: int = QUEUE_FRAMES, size_bytes: int = QUEUE_BYTES) -> None:
        self._frames = frames
        self._bytes = size_bytes
        self._waiting: deque[Arrival] = deque()
        self._held = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, kind: Literal["connected", "received", "sent", "snapshot", "ended"], payload: bytes = b"") -> None:
        """Add with the time of now; what came from the venue waits for room until the intake is closed."""
        arrival = Arrival(kind, time.time_ns(), payload)
        with self._changed:
            if kind == "received":
                self._changed.wait_for(self._has_room)
            self._waiting.append(arrival)
            self._held += len(payload)
            self._changed.notify_all()

    def take(self, timeout_seconds: float) -> list[Arrival]:
        """Everything that waits, in order; waits for the first. Empty when the time passes."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting, timeout_seconds)
            taken = list(self._waiting)
            self._waiting.clear()
            self._held = 0
            self._changed.notify_all()
            return taken

    @property
    def is_closed(self) -> bool:
        """Whether nobody takes from it any more."""
        return self._closed

    def close(self) -> None:
        """Nobody waits for room any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._closed or (len(self._waiting) < self._frames and self._held < self._bytes)
