"""Local copies of data files: fetched once, bounded, and never taken away from a query that reads them."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyiceberg.io.pyarrow import PyArrowFileIO

from k2_dagster.errors import QueryRefused, WarehouseUnavailable
from k2_dagster.query.cache import FileCache
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


def test_pins_of_processes_that_are_gone_are_removed(files: list[PlannedFile], tmp_path: Path) -> None:
    left = tmp_path / "cache" / "pins" / "999999999-x"
    left.mkdir(parents=True)

    FileCache(tmp_path / "cache", 10 * FILE_BYTES).pin(PyArrowFileIO(), files[:1])

    assert not left.exists()


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
