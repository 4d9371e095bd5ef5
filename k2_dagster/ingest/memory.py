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
    _glibc("mallopt", _M_ARENA_MAX, _ARENAS)
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Behind a drain: memory that is free goes back to the system. The columns of batches of any size leave holes in
    the arenas, which grew to a gigabyte behind a publisher of 100,000 rows per second, nearly all of it free. Not
    between batches: the system clears what it hands out again, which costs a backlog a fifth of its speed."""
    _glibc("malloc_trim", 0)


def _glibc(name: str, *arguments: int) -> None:
    """Call a function of glibc; another C library has none such, and needs none."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)
