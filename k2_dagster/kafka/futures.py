"""Waiting for what librdkafka promised, in slices: a process that is asked to stop does not wait for a broker."""

import threading
import time
from concurrent.futures import Future
from typing import TypeVar

from k2_dagster.errors import TRY_ADDRESS, KafkaUnavailable
from k2_dagster.observability.stopping import NEVER

Answer = TypeVar("Answer")

# How soon a stop is noticed.
SLICE_SECONDS = 0.1
# A broker that is well answers within milliseconds: what is under way when the stop comes gets this long.
STOPPING_TIMEOUT_SECONDS = 1.0


class Waiting:
    """The wait for the futures of one request, however many they are: they share its time."""

    def __init__(self, timeout_seconds: float, stop: threading.Event = NEVER) -> None:
        self._timeout_seconds = timeout_seconds
        self._stop = stop
        self._deadline = time.monotonic() + timeout_seconds
        self._stopping = False

    def answer(self, future: "Future[Answer]", action: str) -> Answer:
        """The future's result. Raises KafkaException as librdkafka gave it, and KafkaUnavailable when nothing came in
        time, or not within STOPPING_TIMEOUT_SECONDS of the stop."""
        while True:
            try:
                return future.result(SLICE_SECONDS)
            except TimeoutError:
                self._check(action)

    def _check(self, action: str) -> None:
        if self._stop.is_set() and not self._stopping:
            self._stopping = True
            self._deadline = min(self._deadline, time.monotonic() + STOPPING_TIMEOUT_SECONDS)
        if time.monotonic() > self._deadline:
            late = f"no answer within {self._timeout_seconds:g} s"
            reason = "this process was asked to stop" if self._stopping else late
            raise KafkaUnavailable(f"Kafka could not {action}: {reason}", advice=TRY_ADDRESS)
