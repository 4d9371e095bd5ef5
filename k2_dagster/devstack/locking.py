"""Locks between processes, and between the threads of one."""

import contextlib
import fcntl
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from k2_dagster.devstack.process import Progress, wait_until
from k2_dagster.errors import StackFailed

LOCK_TIMEOUT_SECONDS = 600.0
"""Longest wait for another process on the same folder: it may be downloading 150 MB or building the S3 server."""

_ours: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
"""A lock per path, so that threads of one process wait for each other without taking each other for another process."""


@contextlib.contextmanager
def exclusive(path: Path, progress: Progress | None = None) -> Iterator[None]:
    """Hold a file lock between processes and threads. The system releases it when the holder dies."""
    with contextlib.ExitStack() as held:
        ours = _ours[path]
        _wait(path, lambda: ours.acquire(blocking=False))
        held.callback(ours.release)
        if not _try_lock(path, held):
            if progress is not None:
                progress(f"waiting for another process that holds {path}")
            _wait(path, lambda: _try_lock(path, held))
        yield


def _wait(path: Path, acquire: Callable[[], bool]) -> None:
    if not wait_until(acquire, LOCK_TIMEOUT_SECONDS):
        raise StackFailed(
            f"{path} is still held by another process after {LOCK_TIMEOUT_SECONDS:.0f} s",
            advice="look for another `k2 dev` that hangs",
        )


def _try_lock(path: Path, held: contextlib.ExitStack) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as mine:
        file = mine.enter_context(path.open("a"))
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A holder may have removed the file with its folder: then this is a lock on nothing
            if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                return False
        except (BlockingIOError, FileNotFoundError):
            return False
        held.push(mine.pop_all())
    return True
