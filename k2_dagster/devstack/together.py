"""Work on several parts side by side, which Ctrl-C ends within a second or two."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

Result = TypeVar("Result")

INTERRUPT_SECONDS = 1.5
"""How long work that was told to stop may take for it; what still waits then (a silent server) is left behind."""


class _Task(threading.Thread, Generic[Result]):
    """One piece of work with its outcome. A daemon: one that hangs does not hold up the end of the process."""

    def __init__(self, work: Callable[[], Result]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.outcome: Result | Exception | None = None

    def run(self) -> None:
        try:
            self.outcome = self._work()
        except Exception as error:  # noqa: BLE001  (it is raised, or told, where it is waited for)
            self.outcome = error


def side_by_side(works: Sequence[Callable[[], Result]], interrupted: threading.Event) -> list[Result]:
    """Do all of it at once. Raises the one error there was, or an ExceptionGroup, once all have come to an end.

    When the wait is interrupted (Ctrl-C), `interrupted` is set, the works get INTERRUPT_SECONDS to notice, and the
    interruption is raised.
    """
    tasks = [_Task(work) for work in works]
    for task in tasks:
        task.start()
    try:
        for task in tasks:
            task.join()
    except BaseException:
        interrupted.set()
        deadline = time.monotonic() + INTERRUPT_SECONDS
        for task in tasks:
            task.join(max(0.0, deadline - time.monotonic()))
        raise
    errors = [task.outcome for task in tasks if isinstance(task.outcome, Exception)]
    if len(errors) > 1:
        raise ExceptionGroup("several parts failed", errors)
    if errors:
        raise errors[0]
    # No outcome is an exception now, and each task has one
    return [cast(Result, task.outcome) for task in tasks]
