"""Local copies of data files from object storage (DESIGN D14). Data files never change, so a copy is never stale.

entries/   one file per data file, named by a hash of its path; modification time = last use
pins/      a folder per query with hard links to what it reads, so that eviction cannot take it away, and a lock that
           its process holds: the system lets go of it when the process dies, in whichever container it was
"""

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from pyiceberg.io import FileIO

from k2_dagster.errors import QueryRefused, WarehouseUnavailable
from k2_dagster.lake.catalog import translated_errors
from k2_dagster.query.plan import PlannedFile

# Object storage answers slowly and in parallel: enough to fill a 10 Gbit/s line at 100 ms and 16 MB per file.
PARALLEL_DOWNLOADS = 8
COPY_BUFFER_BYTES = 1_048_576
LOCK_NAME = "held"
# A pin is made in a moment; one that is still not made after this was left by a process that died over it.
MAKING_SECONDS = 3_600.0
_MAKING = "making-"


class FileCache:
    """Copies below a folder, at most `limit_bytes` of them. Several processes may share the folder."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._entries = folder / "entries"
        self._pins = folder / "pins"
        self._limit_bytes = limit_bytes

    def pin(self, io: FileIO, files: Sequence[PlannedFile]) -> "Pin":
        """Copies of the files, fetched where they are not yet. They stay until the pin is closed.

        Raises QueryRefused when they are larger than the cache, WarehouseUnavailable when they cannot be fetched.
        """
        wanted_bytes = sum(one.size_bytes for one in files)
        if wanted_bytes > self._limit_bytes:
            raise QueryRefused(
                f"the query reads {wanted_bytes / 1e6:,.0f} MB of files, the local cache holds "
                f"{self._limit_bytes / 1e6:,.0f} MB",
                advice="ask for fewer days or symbols, or raise K2_QUERY_CACHE_MEGABYTES",
                wanted_bytes=wanted_bytes,
            )
        self._entries.mkdir(parents=True, exist_ok=True)
        pin = Pin.make(self._pins)
        try:
            with translated_errors(), ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
                pin.paths = list(pool.map(lambda one: str(self._link(io, one, pin.folder)), files))
            self._evict()
        except BaseException:
            pin.close()
            raise
        return pin

    def _link(self, io: FileIO, file: PlannedFile, folder: Path) -> Path:
        name = f"{hashlib.sha256(file.path.encode()).hexdigest()}.parquet"
        entry, link = self._entries / name, folder / name
        try:
            link.hardlink_to(entry)
            os.utime(entry)
        except FileNotFoundError:
            pass  # not there, or evicted in this moment
        except FileExistsError:
            return link  # the same file, planned twice
        if link.exists() and link.stat().st_size != file.size_bytes:
            # cut short by whatever died over it, or by the disk
            link.unlink()
            entry.unlink(missing_ok=True)
        if not link.exists():
            self._fetch(io, file, link)
            _publish(link, entry)
        return link

    def _fetch(self, io: FileIO, file: PlannedFile, target: Path) -> None:
        partial = target.with_suffix(".partial")
        with io.new_input(file.path).open() as source, partial.open("wb") as copy:
            shutil.copyfileobj(source, copy, COPY_BUFFER_BYTES)
        size_bytes = partial.stat().st_size
        if size_bytes != file.size_bytes:
            partial.unlink()
            raise WarehouseUnavailable(
                f"{file.path}: {size_bytes:,} bytes came, the table says {file.size_bytes:,}",
                advice="a download that was cut short: ask again. If it stays so, the file is damaged",
            )
        partial.replace(target)

    def _evict(self) -> None:
        """Drop the entries used longest ago until the rest fits; and the pins that no process holds any more."""
        used = sorted((_stat(one), one) for one in self._entries.iterdir())
        excess = sum(size for (_, size), _ in used) - self._limit_bytes
        for (_, size), entry in used:
            if excess <= 0:
                break
            entry.unlink(missing_ok=True)
            excess -= size
        for folder in self._pins.iterdir():
            _remove_if_left(folder)


class Pin:
    """Local paths, in the order of the files asked for; close it when they are read."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock: int | None = lock
        self.paths: list[str] = []

    @classmethod
    def make(cls, pins: Path) -> "Pin":
        """A new one, held from the moment that others can see it."""
        name = uuid.uuid4().hex
        making = pins / f"{_MAKING}{name}"
        making.mkdir(parents=True)
        lock = os.open(making / LOCK_NAME, os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return cls(making.rename(pins / name), lock)

    def close(self) -> None:
        """Let the copies be evicted. May be called twice."""
        if self._lock is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def _remove_if_left(folder: Path) -> None:
    """Remove a pin whose process is gone: its lock can be had."""
    if folder.name.startswith(_MAKING):
        made_at, _ = _stat(folder)
        if made_at and time.time() - made_at > MAKING_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        lock = os.open(folder / LOCK_NAME, os.O_RDWR)
    except FileNotFoundError:
        return  # being closed
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass  # in use
    finally:
        os.close(lock)


def _publish(link: Path, entry: Path) -> None:
    # Another query may have fetched it meanwhile
    with suppress(FileExistsError):
        entry.hardlink_to(link)


def _stat(path: Path) -> tuple[float, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0.0, 0
    return found.st_mtime, found.st_size
