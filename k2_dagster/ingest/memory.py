"""What a process that drains does about its memory: what the collector looks at, and what the system gets back."""

import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from functools import cache

_DONE = threading.Event()


def settle_memory() -> None:
    """Before the first drain; does nothing the second time. What the process has made until then is not looked at by
    the cycle collector any more, so that a collection between two commits takes a millisecond. Once only: whatever
    cycle is no longer used would be kept with it."""
    if _DONE.is_set():
        return
    _DONE.set()
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Behind a drain: memory that is free goes back to the system. The columns of batches of any size leave holes in
    the arenas, which grew to a gigabyte behind a publisher of 100,000 rows per second, nearly all of it free. Not
    between batches: the system clears what it hands out again, which costs a backlog a fifth of its speed."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's; another C library has none such, and needs none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
