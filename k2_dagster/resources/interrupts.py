"""Ending a run where it is safe: the first interrupt asks the loop to stop, instead of raising in the middle of it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dagster import DagsterExecutionInterruptedError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_as_stop() -> Iterator[threading.Event]:
    """Within the block, a termination sets the event that it gives. Afterwards the run is told that it was interrupted.

    Dagster raises DagsterExecutionInterruptedError wherever the code happens to be, also between a commit and what
    records it; nothing would be lost, but the next run would have to find out. Raises that error at the end of the
    block, so that the run counts as canceled. Outside the main thread signals cannot be caught: the event stays unset.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop.is_set():
        raise DagsterExecutionInterruptedError
