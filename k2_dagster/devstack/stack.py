"""The development stack as an object: real Kafka, schema registry, PostgreSQL and optionally S3 under one folder."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from k2_dagster.devstack.composition import brokers_of, new_state, parts_of, remove_made, with_usable_ports
from k2_dagster.devstack.files import write_atomically
from k2_dagster.devstack.kafka import describe_cluster
from k2_dagster.devstack.locking import exclusive
from k2_dagster.devstack.memory import forget_databases, keeps_objects_in_memory, refuse_lost_objects
from k2_dagster.devstack.part import START_TIMEOUT_SECONDS, Part
from k2_dagster.devstack.postgres import PostgresServer
from k2_dagster.devstack.process import KILL_SECONDS, Progress, is_over, memory_megabytes, stop, wait_until
from k2_dagster.devstack.registry import SchemaRegistry
from k2_dagster.devstack.s3 import BUCKET, REGION, S3Server
from k2_dagster.devstack.state import StackState, load_state, save_state
from k2_dagster.devstack.together import side_by_side
from k2_dagster.errors import ConfigurationError, StackFailed
from k2_dagster.settings import STACK_FILE

BROKER_COUNTS = (1, 3)
"""One is enough to develop; with three, one can be lost. Two would halt when either is."""


@dataclass(frozen=True)
class StackAddresses:
    """Where the parts of a running stack are. Databases as SQLAlchemy URIs."""

    kafka_bootstrap_servers: str
    schema_registry_url: str
    catalog_uri: str
    dagster_uri: str
    warehouse: str
    s3_endpoint: str | None


@dataclass(frozen=True)
class PartStatus:
    """A part as it is now. `silent`: its process lives but does not answer."""

    name: str
    state: Literal["running", "silent", "stopped"]
    pid: int | None
    address: str
    rss_megabytes: float
    log: Path


class Stack:
    """The stack of one home folder. Brokers and S3 are chosen when it is made and kept; None takes what is there.

    Methods raise StackFailed when a part does not do as it should, with its last log lines and what to do, and
    ConfigurationError for a wrong argument. Different processes may use one home: a file lock orders them.
    """

    def __init__(
        self, home: Path, brokers: int | None = None, s3: bool | None = None, maven_repository: str | None = None
    ) -> None:
        if brokers is not None and brokers not in BROKER_COUNTS:
            raise ConfigurationError(f"a stack cannot have {brokers} brokers", advice="choose 1 or 3")
        self.home = home.absolute().resolve()
        self._brokers = brokers
        self._s3 = s3
        self._maven_repository = maven_repository

    def up(self, progress: Progress | None = None) -> StackAddresses:
        """Bring every part up: reuse what runs, start what does not, with its data. Idempotent. Ctrl-C ends it within
        two seconds; what was started runs on, and the next `up` goes on from there."""
        progress = progress or _ignore
        interrupted = threading.Event()
        with _writable(self.home), self._exclusive(progress):
            (state,) = side_by_side([lambda: self._decide(progress, interrupted)], interrupted)
            parts = self._parts(state, interrupted)
            _ensure_all(parts, progress, interrupted)
            side_by_side([lambda: self._await_whole_cluster(state, progress, interrupted)], interrupted)
            (self.home / "warehouse").mkdir(exist_ok=True)
            self._write_environment()
            refuse_lost_objects(self.home, state)
        return self.addresses()

    def down(self, purge: bool = False, progress: Progress | None = None) -> None:
        """Stop every part. Data stay, unless `purge` removes everything that the stack made in its home folder; see
        also `loses_objects`."""
        if load_state(self.home) is None:
            return
        progress = progress or _ignore
        with self._exclusive(progress):
            state = self._state()
            parts = self._parts(state)
            ends = [partial(_stop_part, part, purge, progress) for part in parts]
            left = [name for name in side_by_side(ends, threading.Event()) if name]
            if left:
                raise StackFailed(f"these parts could not be ended: {', '.join(left)}", advice="try again")
            if purge:
                remove_made(self.home, state, parts)
            elif keeps_objects_in_memory(state):
                forget_databases(self.home, state)

    @property
    def exists(self) -> bool:
        """Whether a stack was made here, up or not."""
        return load_state(self.home) is not None

    @property
    def loses_objects(self) -> bool:
        """Whether `down` loses the warehouse, because its S3 server has it in memory. The databases, whose catalog
        would name files that are gone, go with it: the next `up` starts clean, from what Kafka retains."""
        state = load_state(self.home)
        return state is not None and keeps_objects_in_memory(state)

    def status(self) -> list[PartStatus]:
        """Every part as it is now, each asked with a real call. Empty where no stack was made."""
        state = load_state(self.home)
        if state is None:
            return []
        return side_by_side([partial(part_status, part) for part in self._parts(state)], threading.Event())

    def parts(self) -> list[Part]:
        """The parts themselves. Empty where no stack was made."""
        state = load_state(self.home)
        return [] if state is None else self._parts(state)

    def part_names(self) -> list[str]:
        """`kafka-1` (to `kafka-3`), `registry`, `postgres`, and `s3` where there is one."""
        return [part.name for part in self._parts(self._state())]

    def logs(self, part: str) -> Path:
        """The log file of a part."""
        return self._part(part).log

    def kill(self, part: str) -> None:
        """kill -9 a part, as a chaos test does, and wait until it is gone. Nothing happens when it does not run."""
        process = self._part(part).find()
        if process is not None:
            stop(process, [(signal.SIGKILL, KILL_SECONDS)])

    def start(self, part: str, progress: Progress | None = None) -> None:
        """Bring one part up again with its data and wait until it answers. Nothing happens when it already does."""
        with self._exclusive(progress or _ignore):
            self._part(part).ensure(progress or _ignore)

    def stop(self, part: str) -> None:
        """End one part in order."""
        with self._exclusive(_ignore):
            _stop_part(self._part(part), False, _ignore)

    def addresses(self) -> StackAddresses:
        """Where the parts are. They need not run. Raises StackFailed where no stack was made."""
        state = self._state()
        postgres = PostgresServer(self.home, state)
        return StackAddresses(
            kafka_bootstrap_servers=",".join(broker.address for broker in brokers_of(self.home, state)),
            schema_registry_url=SchemaRegistry(self.home, state).address,
            catalog_uri=postgres.uri("k2"),
            dagster_uri=postgres.uri("dagster"),
            warehouse=f"s3://{BUCKET}/warehouse" if state.s3 else f"file://{self.home}/warehouse",
            s3_endpoint=S3Server(self.home, state).address if state.s3 else None,
        )

    def settings_environment(self) -> dict[str, str]:
        """The settings (`K2_*`) that point K2 at this stack, secrets in clear: what `stack.env` holds."""
        state, addresses = self._state(), self.addresses()
        environment = {
            "K2_HOME": str(self.home),
            "K2_KAFKA_BOOTSTRAP_SERVERS": addresses.kafka_bootstrap_servers,
            "K2_KAFKA_REPLICATION_FACTOR": str(state.brokers),
            "K2_SCHEMA_REGISTRY_URL": addresses.schema_registry_url,
            "K2_CATALOG_URI": addresses.catalog_uri,
            "K2_DAGSTER_URI": addresses.dagster_uri,
            "K2_WAREHOUSE": addresses.warehouse,
        }
        if addresses.s3_endpoint is not None:
            environment |= {
                "K2_S3_ENDPOINT": addresses.s3_endpoint,
                "K2_S3_REGION": REGION,
                "K2_S3_ACCESS_KEY_ID": state.s3_access_key_id,
                "K2_S3_SECRET_ACCESS_KEY": state.s3_secret_access_key,
            }
        return environment

    def create_database(self, name: str) -> str:
        """Create a database in the stack's PostgreSQL unless it exists, and return its SQLAlchemy URI."""
        postgres = PostgresServer(self.home, self._state())
        postgres.create_database(name)
        return postgres.uri(name)

    def _exclusive(self, progress: Progress) -> AbstractContextManager[None]:
        return exclusive(self.home / "run" / "stack.lock", progress)

    def _state(self) -> StackState:
        state = load_state(self.home)
        if state is None:
            raise StackFailed(f"there is no stack in {self.home}", advice="`k2 dev up` makes one")
        return state

    def _part(self, name: str) -> Part:
        parts = {part.name: part for part in self._parts(self._state())}
        if name not in parts:
            raise ConfigurationError(f"the stack has no part {name!r}", advice=f"choose one of {', '.join(parts)}")
        return parts[name]

    def _parts(self, state: StackState, interrupted: threading.Event | None = None) -> list[Part]:
        parts = parts_of(self.home, state)
        for part in parts:
            part.maven_repository = self._maven_repository
            part.interrupted = interrupted or part.interrupted
        return parts

    def _decide(self, progress: Progress, interrupted: threading.Event) -> StackState:
        state = load_state(self.home)
        if state is None:
            state = new_state(self.home, self._brokers or 1, bool(self._s3), progress, interrupted)
        elif self._brokers not in (None, state.brokers) or self._s3 not in (None, state.s3):
            raise ConfigurationError(
                f"the stack in {self.home} was made with {state.brokers} broker(s) and {'' if state.s3 else 'no '}S3",
                advice="`k2 dev down --purge` first (its data go), or use another K2_HOME",
            )
        state = with_usable_ports(self.home, state, progress)
        save_state(self.home, state)
        return state

    def _await_whole_cluster(self, state: StackState, progress: Progress, interrupted: threading.Event) -> None:
        brokers = brokers_of(self.home, state)
        expected = {broker.number for broker in brokers}

        def is_whole() -> bool:
            return all(describe_cluster(broker.address)[1] == expected for broker in brokers)

        if is_whole():
            return
        progress("waiting until every broker sees the others")
        if not wait_until(lambda: interrupted.is_set() or is_whole(), START_TIMEOUT_SECONDS):
            raise StackFailed("the brokers run but do not see each other", advice=f"see the logs in {self.home}/logs")

    def _write_environment(self) -> None:
        values = self.settings_environment()
        # Whoever reads the file knows the home; written down it would be wrong once the folder is moved
        del values["K2_HOME"]
        lines = [f"{name}={value}\n" for name, value in values.items()]
        write_atomically(self.home / STACK_FILE, "# Written by `k2 dev up`\n" + "".join(lines))


def _ignore(_: str) -> None:
    """Progress that nobody watches."""


@contextmanager
def _writable(home: Path) -> Iterator[None]:
    """The home folder, made where it is missing. What the system refuses in it is told with the setting's name."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ConfigurationError(
            f"K2_HOME was {str(home)!r}: {error}", advice="valid: a folder that you may write to, on a disk with room"
        ) from error


def _ensure_all(parts: Sequence[Part], progress: Progress, interrupted: threading.Event) -> None:
    """Bring the parts up side by side. Raises StackFailed with everything that failed, once all have come to an end."""
    try:
        side_by_side([partial(part.ensure, progress) for part in parts], interrupted)
    except ExceptionGroup as group:
        if all(isinstance(error, StackFailed) for error in group.exceptions):
            raise StackFailed("\n".join(str(error) for error in group.exceptions)) from group
        raise next(error for error in group.exceptions if not isinstance(error, StackFailed)) from group


def _stop_part(part: Part, purge: bool, progress: Progress) -> str | None:
    """End a part. Returns its name if it still runs."""
    process = part.find()
    if process is None:
        return None
    began = time.monotonic()
    stop(process, part.purge_signals if purge else part.stop_signals)
    if not is_over(process):
        return part.name
    progress(f"{part.name} has ended after {time.monotonic() - began:.1f} s")
    return None


def part_status(part: Part) -> PartStatus:
    """The part as it is now, asked with a real call."""
    process = part.find()
    if process is None:
        return PartStatus(part.name, "stopped", None, part.address, 0.0, part.log)
    state: Literal["running", "silent"] = "running" if part.answers(process) else "silent"
    return PartStatus(part.name, state, process.pid, part.address, memory_megabytes(process), part.log)
