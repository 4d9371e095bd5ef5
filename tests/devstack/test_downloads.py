"""The cache of programs against a repository on this machine."""

import functools
import gc
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from k2_dagster.devstack import downloads
from k2_dagster.devstack.downloads import PIECE_BYTES, Artifact, Store, cache_folder, read_lock, require
from k2_dagster.errors import ConfigurationError, StackFailed

# jgo leaves streamed responses to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@dataclass
class Repository:
    """A Maven repository on loopback. `asked` are the paths of files that were fetched."""

    folder: Path
    address: str = ""
    asked: list[str] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    has_ranges: bool = True
    cut_after: int = 0

    def add(self, set_name: str, name: str, content: bytes) -> Artifact:
        group, artifact, version, *_ = name.split(":")
        locked = Artifact(set_name, name, hashlib.sha256(content).hexdigest(), len(content))
        path = self.folder / group.replace(".", "/") / artifact / version / locked.file
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return locked

    def fetched(self) -> list[str]:
        """File names since the last call, without checksums."""
        names = [Path(path).name for path in self.asked if not path.endswith((".sha1", ".pom"))]
        self.asked.clear()
        return sorted(names)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    served = Repository(tmp_path / "repository")
    served.folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            given = self.headers.get("Range")
            served.ranges.append(given)
            if given is None or not served.has_ranges:
                self.answer(200, 0)
            else:
                self.answer(206, int(given.removeprefix("bytes=").rstrip("-")))

        def answer(self, status: int, begin: int) -> None:
            path = Path(self.translate_path(self.path))
            if not path.is_file():
                self.send_error(404)
                return
            content = path.read_bytes()[begin:]
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            # A connection that is lost in the middle
            self.wfile.write(content[: served.cut_after] if served.cut_after else content)
            served.cut_after = 0

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(served.folder)))
    served.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield served
    server.shutdown()
    thread.join()
    server.server_close()
    # Here, where their warning is expected, not in a later test
    gc.collect()


def store(tmp_path: Path, repository: Repository, *artifacts: Artifact) -> Store:
    return Store(tmp_path / "cache", artifacts, {"here": repository.address})


def test_a_complete_cache_asks_nobody(tmp_path: Path, repository: Repository) -> None:
    cache = store(
        tmp_path, repository, repository.add("s", "g.h:a:1:jar", b"first"), repository.add("s", "g:b:2:jar", b"b")
    )
    said: list[str] = []

    paths = cache.files("s", said.append)

    assert [path.read_bytes() for path in paths] == [b"first", b"b"]
    assert repository.fetched() == ["a-1.jar", "b-2.jar"]
    assert said[0].startswith("fetching 2 file(s)")
    assert said[-1] == "s: 0 of 0 MB"
    assert cache.files("s", said.append) == paths
    assert repository.asked == []


def test_a_damaged_file_is_noticed_and_fetched_again(tmp_path: Path, repository: Repository) -> None:
    cache = store(
        tmp_path, repository, repository.add("s", "g:a:1:jar", b"good"), repository.add("s", "g:b:2:jar", b"b")
    )
    damaged, _ = cache.files("s", lambda _: None)
    repository.fetched()
    damaged.write_bytes(b"evil")

    cache.files("s", lambda _: None)

    assert damaged.read_bytes() == b"good"
    assert repository.fetched() == ["a-1.jar"]


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_fetch_that_was_cut_off_goes_on_where_it_ended(
    tmp_path: Path, repository: Repository, has_ranges: bool
) -> None:
    content = bytes(range(256)) * 4_000
    cache = store(tmp_path, repository, repository.add("s", "g:a:1:jar", content))
    repository.cut_after, repository.has_ranges = 4 * PIECE_BYTES, has_ranges
    with pytest.raises(StackFailed, match="what has arrived is kept"):
        cache.files("s", lambda _: None)

    (path,) = cache.files("s", lambda _: None)

    assert path.read_bytes() == content
    assert repository.ranges == [None, f"bytes={4 * PIECE_BYTES}-"]
    assert sorted(each.name for each in path.parent.iterdir()) == ["a-1.jar"]


def test_what_an_interruption_left_is_not_trusted(tmp_path: Path, repository: Repository) -> None:
    cache = store(tmp_path, repository, repository.add("s", "g:a:1:jar", b"whole"))
    half = tmp_path / "cache" / "s" / ".a-1.jar.partial"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"wro")

    (path,) = cache.files("s", lambda _: None)

    assert path.read_bytes() == b"whole"
    assert repository.ranges == ["bytes=3-", None]


def test_a_fetch_that_is_interrupted_ends_and_keeps_what_arrived(tmp_path: Path, repository: Repository) -> None:
    content = b"x" * 1_000_000
    interrupted = threading.Event()
    cache = Store(
        tmp_path / "cache",
        [repository.add("s", "g:a:1:jar", content)],
        {"here": repository.address},
        interrupted,
    )

    def interrupt(line: str) -> None:
        if "of 1 MB" in line:
            interrupted.set()

    with pytest.raises(StackFailed, match="fetching s was interrupted"):
        cache.files("s", interrupt)

    assert 0 < (tmp_path / "cache" / "s" / ".a-1.jar.partial").stat().st_size < len(content)
    interrupted.clear()
    assert cache.files("s", lambda _: None)[0].read_bytes() == content


def test_a_file_that_is_not_the_locked_one_is_refused(tmp_path: Path, repository: Repository) -> None:
    real = repository.add("s", "g:a:1:jar", b"altered on the way")
    locked = Artifact(real.set, real.name, hashlib.sha256(b"as it was locked").hexdigest(), real.bytes)

    with pytest.raises(StackFailed, match=r"g:a:1:jar does not have the SHA-256 .* of jars.lock"):
        store(tmp_path, repository, locked).files("s", lambda _: None)
    assert not (tmp_path / "cache" / "s" / "a-1.jar").exists()


def test_a_missing_file_says_which(tmp_path: Path, repository: Repository) -> None:
    with pytest.raises(StackFailed, match="g:gone:1:jar could not be fetched"):
        store(tmp_path, repository, Artifact("s", "g:gone:1:jar", "0" * 64, 1)).files("s", lambda _: None)


def test_two_at_once_fetch_each_file_once(tmp_path: Path, repository: Repository) -> None:
    artifact = repository.add("s", "g:a:1:jar", b"x" * 1_000_000)
    found: list[Path] = []

    def fetch() -> None:
        found.extend(store(tmp_path, repository, artifact).files("s", lambda _: None))

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(found) == 2
    assert repository.fetched() == ["a-1.jar"]


def archive_of(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def test_an_archive_is_unpacked_once_and_again_when_damaged(tmp_path: Path, repository: Repository) -> None:
    archive = repository.add("app", "g:app:1:tar.gz:all", archive_of("lib/app.jar", b"program"))
    cache = store(tmp_path, repository, archive)

    folder = cache.unpacked("app", lambda _: None)

    assert (folder / "lib" / "app.jar").read_bytes() == b"program"
    assert repository.fetched() == ["app-1-all.tar.gz"]
    assert cache.unpacked("app", lambda _: None) == folder
    assert repository.asked == []
    (folder / "lib" / "app.jar").write_bytes(b"damaged")
    cache.unpacked("app", lambda _: None)
    assert (folder / "lib" / "app.jar").read_bytes() == b"program"
    # from the archive, which was kept
    assert repository.asked == []
    (tmp_path / "cache" / "app" / "app-1-all.tar.gz").unlink()
    (folder / "lib" / "app.jar").unlink()
    cache.unpacked("app", lambda _: None)
    assert repository.fetched() == ["app-1-all.tar.gz"]


@pytest.mark.parametrize("filtered", [True, False], ids=["filter", "before Python 3.11.4"])
def test_an_archive_cannot_write_outside_its_folder(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch, filtered: bool
) -> None:
    if not filtered:
        monkeypatch.delattr("tarfile.data_filter", raising=False)
    archive = repository.add("app", "g:app:1:tar.gz:all", archive_of("../../escaped", b"x"))

    with pytest.raises(StackFailed, match="cannot be unpacked"):
        store(tmp_path, repository, archive).unpacked("app", lambda _: None)
    assert not list(tmp_path.rglob("escaped"))


def test_the_committed_lock_names_the_versions_of_the_code_and_no_address() -> None:
    names = [artifact.name for artifact in read_lock()]

    for coordinates in (downloads.KAFKA, downloads.SLF4J, downloads.REGISTRY):
        assert any(name.startswith(coordinates) for name in names), coordinates
    assert "://" not in downloads.LOCK_FILE.read_text()
    assert len(set(names)) == len(names)


def test_the_cache_is_where_the_system_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "k2"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "k2"


def test_a_missing_package_says_how_to_get_it() -> None:
    with pytest.raises(ConfigurationError, match=r"pip install 'k2-dagster\[stack\]'"):
        require("no_such_package_at_all")
