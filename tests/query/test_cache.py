"""Local copies of data files: fetched once, bounded, and never taken away from a query that reads them."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyiceberg.io.pyarrow import PyArrowFileIO

from k2_dagster.errors import QueryRefused, WarehouseUnavailable
from k2_dagster.query.cache import MAKING_SECONDS, FileCache
from k2_dagster.query.plan import PlannedFile

FILE_BYTES = 1_000


@pytest.fixture
def files(tmp_path: Path) -> list[PlannedFile]:
    """Five data files of 1,000 bytes."""
    (tmp_path / "remote").mkdir()
    planned = []
    for number in range(5):
        path = tmp_path / "remote" / f"{number}.parquet"
        path.write_bytes(bytes([number]) * FILE_BYTES)
        planned.append(PlannedFile(str(path), 1, FILE_BYTES))
    return planned


def cached_bytes(folder: Path) -> int:
    return sum(one.stat().st_size for one in (folder / "entries").iterdir())


def test_a_file_is_fetched_once(files: list[PlannedFile], tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache", 10 * FILE_BYTES)
    cache.pin(PyArrowFileIO(), files[:2]).close()
    Path(files[0].path).unlink()

    again = cache.pin(PyArrowFileIO(), [files[1], files[0], files[0]])

    assert [Path(path).read_bytes()[0] for path in again.paths] == [1, 0, 0]


def test_the_files_used_longest_ago_make_room(files: list[PlannedFile], tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache", 3 * FILE_BYTES)
    for step, number in enumerate((0, 1, 2, 0, 3, 4)):
        cache.pin(PyArrowFileIO(), [files[number]]).close()
        assert cached_bytes(tmp_path / "cache") <= 3 * FILE_BYTES
        newest = max((tmp_path / "cache" / "entries").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (step, step))
    for file in files:
        Path(file.path).unlink()

    assert len(cache.pin(PyArrowFileIO(), [files[0], files[3], files[4]]).paths) == 3
    with pytest.raises(WarehouseUnavailable):
        cache.pin(PyArrowFileIO(), [files[1]])


def test_what_a_query_reads_is_not_taken_away(files: list[PlannedFile], tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache", FILE_BYTES)
    reading = cache.pin(PyArrowFileIO(), [files[0]])
    cache.pin(PyArrowFileIO(), [files[1]]).close()

    assert cached_bytes(tmp_path / "cache") == FILE_BYTES
    assert Path(reading.paths[0]).read_bytes() == bytes([0]) * FILE_BYTES
    reading.close()
    assert list((tmp_path / "cache" / "pins").iterdir()) == []


def test_more_than_the_cache_holds_is_refused(files: list[PlannedFile], tmp_path: Path) -> None:
    with pytest.raises(QueryRefused, match="K2_QUERY_CACHE_MEGABYTES"):
        FileCache(tmp_path / "cache", 2 * FILE_BYTES).pin(PyArrowFileIO(), files)


def test_a_failed_fetch_leaves_nothing(files: list[PlannedFile], tmp_path: Path) -> None:
    Path(files[1].path).unlink()

    with pytest.raises(WarehouseUnavailable):
        FileCache(tmp_path / "cache", 10 * FILE_BYTES).pin(PyArrowFileIO(), files)

    assert list((tmp_path / "cache" / "pins").iterdir()) == []


# Pins the first file, says so, and waits to be killed.
PINNING = """
import sys, time
from pathlib import Path
from pyiceberg.io.pyarrow import PyArrowFileIO
from k2_dagster.query.cache import FileCache
from k2_dagster.query.plan import PlannedFile
pin = FileCache(Path(sys.argv[1]), 10_000).pin(PyArrowFileIO(), [PlannedFile(sys.argv[2], 1, 1_000)])
print("pinned", flush=True)
time.sleep(600)
"""


def test_a_pin_stays_as_long_as_its_process_lives_whatever_its_number_is(
    files: list[PlannedFile], tmp_path: Path
) -> None:
    """As in another container, where process numbers are others."""
    cache, pins = FileCache(tmp_path / "cache", 10 * FILE_BYTES), tmp_path / "cache" / "pins"
    command = [sys.executable, "-c", PINNING, str(tmp_path / "cache"), files[0].path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "pinned\n"
            (theirs,) = pins.iterdir()
            cache.pin(PyArrowFileIO(), files[1:2]).close()
            assert list(pins.iterdir()) == [theirs]
        finally:
            process.kill()
    cache.pin(PyArrowFileIO(), files[1:2]).close()
    assert list(pins.iterdir()) == []


def test_a_pin_that_was_never_finished_is_removed_in_time(files: list[PlannedFile], tmp_path: Path) -> None:
    pins = tmp_path / "cache" / "pins"
    for name, age_seconds in (("making-old", MAKING_SECONDS + 60), ("making-new", 60)):
        (pins / name).mkdir(parents=True)
        os.utime(pins / name, (time.time() - age_seconds,) * 2)

    FileCache(tmp_path / "cache", 10 * FILE_BYTES).pin(PyArrowFileIO(), files[:1]).close()

    assert [one.name for one in pins.iterdir()] == ["making-new"]


@pytest.mark.parametrize("size_bytes", [FILE_BYTES - 1, FILE_BYTES + 1, 0])
def test_a_download_of_another_size_is_not_kept(files: list[PlannedFile], tmp_path: Path, size_bytes: int) -> None:
    cache, whole = FileCache(tmp_path / "cache", 10 * FILE_BYTES), Path(files[0].path).read_bytes()
    Path(files[0].path).write_bytes(bytes(size_bytes))
    with pytest.raises(WarehouseUnavailable, match=f"{size_bytes:,} bytes came, the table says 1,000"):
        cache.pin(PyArrowFileIO(), files[:1])
    assert list((tmp_path / "cache" / "entries").iterdir()) == []
    assert list((tmp_path / "cache" / "pins").iterdir()) == []

    Path(files[0].path).write_bytes(whole)
    assert Path(cache.pin(PyArrowFileIO(), files[:1]).paths[0]).read_bytes() == whole


def test_a_copy_that_was_cut_short_later_is_fetched_again(files: list[PlannedFile], tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache", 10 * FILE_BYTES)
    cache.pin(PyArrowFileIO(), files[:1]).close()
    (entry,) = (tmp_path / "cache" / "entries").iterdir()
    os.truncate(entry, 10)

    for _ in range(2):
        pin = cache.pin(PyArrowFileIO(), files[:1])
        assert Path(pin.paths[0]).read_bytes() == bytes([0]) * FILE_BYTES
        pin.close()
    assert cached_bytes(tmp_path / "cache") == FILE_BYTES


def test_many_queries_at_once_share_the_files(files: list[PlannedFile], tmp_path: Path) -> None:
    """Evictions and fetches race in a cache that is too small for all; every reader still has its bytes."""
    cache = FileCache(tmp_path / "cache", 2 * FILE_BYTES)
    stop = time.monotonic() + 2
    wrong: list[str] = []
    tried = threading.Barrier(4)

    def reader(offset: int) -> int:
        tried.wait()
        rounds = 0
        while time.monotonic() < stop:
            number = (offset + rounds) % 5
            pin = cache.pin(PyArrowFileIO(), [files[number]])
            if Path(pin.paths[0]).read_bytes() != bytes([number]) * FILE_BYTES:
                wrong.append(pin.paths[0])
            pin.close()
            rounds += 1
        return rounds

    with ThreadPoolExecutor(4) as pool:
        rounds = list(pool.map(reader, range(4)))

    assert min(rounds) > 5
    assert wrong == []
