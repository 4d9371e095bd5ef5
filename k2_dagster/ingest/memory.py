"""What a process that drains does about its memory: what the collector looks at, and what the system gets back."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from k2_dagster.ingest.resident import give_back

# How often what has outlived a collection is put aside: before the first drain, and behind the first commits, which
# load code and its compiled parts (70,000 objects). Not more often: a cycle that is no longer used would be kept.
SETTLED_TIMES = 3
# A tenth of Python's own. A backlog goes 4 % faster; less gains nothing.
SWITCH_SECONDS = 0.0005


class Collector:
    """Collects cycles between commits. A collection takes a fifth of a millisecond when what the process loaded once is
    put aside, and twenty otherwise."""

    def __init__(self) -> None:
        self.settled = 0

    def collect(self) -> None:
        """Call it where nothing waits: what a commit leaves behind (table metadata refers to itself) would otherwise
        wait for the end of the run."""
        gc.collect()
        if self.settled < SETTLED_TIMES:
            self.settled += 1
            gc.freeze()


COLLECTOR = Collector()
"""The process's, as its collector is."""


@contextmanager
def switching_often() -> Iterator[None]:
    """Threads take turns of SWITCH_SECONDS at the interpreter, for the time of a drain. The judge makes many small
    calls that leave it, and waits for a whole turn of the commit each time that it comes back."""
    was = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(was)


@contextmanager
def collections_between_commits() -> Iterator[None]:
    """No cycle collection by count, for the time of a drain: every message is an object that it would look at, which
    costs a third of the reader's time; and a commit would now and then wait for 100 ms. `COLLECTOR.collect` does it
    instead, behind each commit."""
    was_enabled = gc.isenabled()
    gc.disable()
    if not COLLECTOR.settled:
        COLLECTOR.collect()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
        give_back()
