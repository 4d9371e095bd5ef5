"""Work on several parts side by side, which Ctrl-C ends within a second or two."""

import threading
import time
from collections.abc import Callable, Sequence

from k2_dagster.observability.work import Outcome, Work

INTERRUPT_SECONDS = 1.5
"""How long work that was told to stop may take for it; what still waits then (a silent server) is left behind."""


def side_by_side(works: Sequence[Callable[[], Outcome]], interrupted: threading.Event) -> list[Outcome]:
    """Do all of it at once. Raises the one error there was, or a group of them, once all have come to an end.

    When the wait is interrupted (Ctrl-C), `interrupted` is set, the works get INTERRUPT_SECONDS to notice, and the
    interruption is raised.
    """
    tasks = [Work(work) for work in works]
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
    errors = [task.error for task in tasks if task.error is not None]
    if len(errors) > 1:
        raise BaseExceptionGroup("several parts failed", errors)
    return [task.outcome() for task in tasks]
