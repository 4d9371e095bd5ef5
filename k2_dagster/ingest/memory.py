"""What a process that drains does about its memory, once: glibc's arenas, and what the collector looks at."""

import ctypes
import gc
import sys
import threading

# glibc's name of "at most so many arenas" (malloc.h), and how many. By default each thread gets one of its own, up to
# eight for each processor, and every one keeps what its largest batch needed: 330 MB more, measured behind a publisher
# of 100,000 rows per second.
_M_ARENA_MAX = -8
_ARENAS = 2
_DONE = threading.Event()


def settle_memory() -> None:
    """Before the first drain; does nothing the second time. What the process has made until then is not looked at by
    the cycle collector any more, so that a collection between two commits takes a millisecond. Once only: whatever
    cycle is no longer used would be kept with it."""
    if _DONE.is_set():
        return
    _DONE.set()
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # another C library has none
            mallopt(_M_ARENA_MAX, _ARENAS)
    gc.collect()
    gc.freeze()
