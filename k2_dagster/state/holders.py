"""Names of processes that hold leases, by which another one on the same machine can tell that they are gone.

    host:pid:started:machine:random

`started` is when the system started the process, in its own ticks, so that another one with the same id is not taken
for it; `machine` stands for the boot of the machine and the process ids that are seen there (a container has its own).
Both are `-` where the system does not tell: then nobody can tell from afar, and only heartbeats say who is alive.
"""

import hashlib
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
# Bytes of the digest that stands for a machine: equal ones on machines of one name do not happen.
_MACHINE_BYTES = 6
_UNKNOWN = "-"
# In /proc/PID/stat, behind the name in brackets: the state, and the 22nd field of all.
_STATE, _STARTED = 0, 19
# Ended, though somebody has not asked yet how.
_ENDED = ("Z", "X")


@dataclass(frozen=True, slots=True)
class Process:
    """What a holder's name says of it. `started` and `machine` may be `-`."""

    host: str
    pid: int
    started: str
    machine: str


def new_holder() -> str:
    """A name for this process that no other has, and that it has not given itself before."""
    pid = os.getpid()
    stat, machine = _stat(pid), _machine()
    started = _UNKNOWN if stat is None else stat[1]
    return f"{socket.gethostname()}:{pid}:{started}:{machine}:{uuid.uuid4().hex[:8]}"


def is_gone(holder: str) -> bool:
    """Whether the process of that name is surely gone. False for one of another machine, and for what is no name."""
    process = process_of(holder)
    if process is None or _UNKNOWN in (process.started, process.machine):
        return False
    if (process.host, process.machine) != (socket.gethostname(), _machine()):
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's: it is there, and perhaps not to be seen
        pass
    stat = _stat(process.pid)
    return stat is not None and (stat[0] in _ENDED or stat[1] != process.started)


def process_of(holder: str) -> Process | None:
    """What a name says; None when it is none of these. Pure."""
    parts = holder.rsplit(":", 4)
    if len(parts) != 5 or not parts[1].isdecimal() or int(parts[1]) == 0:
        return None
    return Process(parts[0], int(parts[1]), parts[2], parts[3])


def _stat(pid: int) -> tuple[str, str] | None:
    """State and start of a process, None where they cannot be read."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return (fields[_STATE], fields[_STARTED]) if len(fields) > _STARTED else None


def _machine() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        ids = str((_PROC / "self/ns/pid").readlink())
        is_ours = str((_PROC / "self").readlink()) == str(os.getpid())
    except OSError:
        return _UNKNOWN
    if not boot or not is_ours:  # what /proc shows is of other process ids than ours
        return _UNKNOWN
    return hashlib.blake2b(f"{boot} {ids}".encode(), digest_size=_MACHINE_BYTES).hexdigest()
