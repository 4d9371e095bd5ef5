"""What a draining process keeps resident: the C library's heap, and code that has done its work.

Linux with glibc only: another system's C library has no such calls, and needs none.
"""

import ctypes
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa

# Numbers of <malloc.h> and <sys/mman.h>, part of Linux's ABI.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
MADV_DONTNEED = 4
# Every thread that allocates beside another gets an arena of its own, up to eight per core, and each keeps what is free
# in it. The stages hold the interpreter's lock most of the time that they allocate.
ARENAS = 1
# Arrays from this size on go back to the system when they are freed. While a process keeps up, its batches differ in
# size, and the holes that they leave in an arena are most of what it would keep.
KEEPING_UP_BYTES = 256 * 1024
# A process that has no more than this before it keeps up.
KEEPING_UP_BATCHES = 2
# With a backlog no array that can be kept goes back (the most that glibc takes): the system clears what it hands out
# again, which costs a fifth of the speed.
BACKLOG_BYTES = 32 * 1024 * 1024
# Libraries of tens of megabytes that work now and then: LLVM when a compiled pass is loaded, Polars when Pandera is
# asked about a text that is new or a row that is bad. By package, how the file's name begins.
NOW_AND_THEN = {"llvmlite": "libllvmlite", "polars": "_polars_runtime"}


def prepare() -> None:
    """Before the first thread of a process that drains. Arrow's columns are the C library's then, as NumPy's are:
    Arrow's own allocator keeps several times what a batch needs."""
    pa.set_memory_pool(pa.system_memory_pool())
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_ARENA_MAX, ARENAS)


def allocate_for(backlog: int, batch_rows: int) -> None:
    """Before a drain of so many messages: whether freed columns are kept for the next batch, or given to the system."""
    libc = _glibc()
    if libc is None:
        return
    largest = KEEPING_UP_BYTES if backlog <= KEEPING_UP_BATCHES * batch_rows else BACKLOG_BYTES
    libc.mallopt(M_MMAP_THRESHOLD, largest)
    libc.mallopt(M_TRIM_THRESHOLD, 2 * largest)


def give_back() -> None:
    """Behind a drain: memory that is free goes back to the system. Not between batches: see BACKLOG_BYTES."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def give_back_code() -> None:
    """Behind a batch: pages of code that works now and then go back to the system.

    Such a page is the file's own, and is found again in the system's cache when it is called.
    """
    libc = _glibc()
    if libc is None:
        return
    for mapping in _now_and_then():
        libc.madvise(ctypes.c_void_p(mapping.start), ctypes.c_size_t(mapping.end - mapping.start), MADV_DONTNEED)


@dataclass(frozen=True, slots=True)
class Mapping:
    """Addresses of a file's code."""

    start: int
    end: int


def code_of(lines: Iterable[str], names: tuple[str, ...]) -> list[Mapping]:
    """Mappings of /proc/self/smaps of files that have one of the names, whose pages are all the file's own: code and
    constants, which cannot be written to and have not been. What the loader has relocated is a copy of this process's,
    or of the one that it was forked from, and would be lost."""
    found = []
    mapping: Mapping | None = None
    for line in lines:
        words = line.split(maxsplit=5)  # the file's name may have spaces
        if "-" in words[0]:
            start, end = (int(word, 16) for word in words[0].split("-"))
            is_code = words[1] in ("r-xp", "r--p") and len(words) > 5 and Path(words[5].rstrip()).name.startswith(names)
            mapping = Mapping(start, end) if is_code else None
            copied = dict.fromkeys(_COPIES, "unknown")
        elif words[0] in _COPIES:
            copied[words[0]] = words[1]
        elif words[0] == _LAST and mapping is not None and set(copied.values()) == {"0"}:
            found.append(mapping)
    return found


# Sizes of what is not the file's own, in memory or swapped out, and the last line of a mapping.
_COPIES = ("Anonymous:", "Swap:")
_LAST = "VmFlags:"


def _now_and_then() -> list[Mapping]:
    return _known(tuple(file for package, file in NOW_AND_THEN.items() if package in sys.modules))


@cache
def _known(names: tuple[str, ...]) -> list[Mapping]:
    with Path("/proc/self/smaps").open(encoding="utf-8") as lines:
        return code_of(lines, names)


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if all(hasattr(libc, name) for name in ("mallopt", "malloc_trim", "madvise")) else None
