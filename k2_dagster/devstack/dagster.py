"""Dagster beside the development stack: code server, daemon and webserver as processes under the same home folder.

The code server listens on a Unix socket, so no successor can share a port with a predecessor that lingers
(SO_REUSEPORT) and be given half of its calls.
"""

import hashlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from k2_dagster.devstack.dagster_calls import (
    CANCEL_RUNS,
    DAEMON_HEARTBEATS,
    LOCATION_STATUS,
    UNFINISHED_RUNS,
    UNFINISHED_STATES,
    ask,
    greets,
)
from k2_dagster.devstack.dagster_instance import prepare_instance
from k2_dagster.devstack.files import write_atomically
from k2_dagster.devstack.locking import exclusive
from k2_dagster.devstack.part import Part
from k2_dagster.devstack.process import Command, Progress, is_over, listens, stop, wait_until
from k2_dagster.devstack.state import find_free_port, is_free
from k2_dagster.devstack.together import side_by_side
from k2_dagster.errors import ConfigurationError, StackFailed
from k2_dagster.settings import Settings, as_environment

MODULE = "k2_dagster.definitions"
LOCATION = "k2"
INSTANCE_FILE = Path(__file__).with_name("dagster.yaml")

LONGEST_SOCKET_PATH_BYTES = 100
"""The system's limit is 107 bytes on Linux and 103 on macOS."""

READY_TIMEOUT_SECONDS = 90.0
"""Three processes import Dagster (1.3 s) and K2 (2 s) and lay out 30 tables; two busy cores stretch that."""

HEARTBEAT_SLACK_SECONDS = 1.0
"""Heartbeats and process creation times are taken from different clocks of the same machine."""


class _DagsterPart(Part):
    """What the three have in common: the interpreter, the instance's folder, the environment."""

    module: tuple[str, ...] = ()

    def __init__(self, name: str, parts: "DagsterParts") -> None:
        super().__init__(name, parts.home)
        self.parts = parts

    def prepare(self, progress: Progress) -> None:  # noqa: ARG002  (nothing is fetched)
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def program(self) -> str:  # type: ignore[override]
        return Path(sys.executable).name

    @property
    def marker(self) -> str:
        return f"{' '.join(self.module)} --workspace {self.parts.workspace}"

    def command(self) -> Command:
        return Command(
            [sys.executable, "-m", *self.module, "--workspace", str(self.parts.workspace), *self.options()],
            self.parts.instance_folder,
            self.marker,
            self.parts.environment(),
        )

    def options(self) -> Sequence[str]:
        """Beyond the workspace."""
        return ()


class CodeServer(_DagsterPart):
    """Holds K2's definitions, evaluates sensors and starts runs."""

    @property
    def address(self) -> str:
        return f"unix:{self.parts.socket}"

    def prepare(self, progress: Progress) -> None:
        super().prepare(progress)
        self.parts.socket.unlink(missing_ok=True)

    @property
    def marker(self) -> str:
        return f"--socket {self.parts.socket}"

    def command(self) -> Command:
        options = ["--module-name", MODULE, "--location-name", LOCATION]
        return Command(
            [sys.executable, "-m", "dagster", "api", "grpc", "--socket", str(self.parts.socket), *options],
            self.parts.instance_folder,
            self.marker,
            self.parts.environment(),
        )

    def answers(self, process: psutil.Process) -> bool:  # noqa: ARG002  (the socket's path is ours alone)
        return greets(self.parts.socket)


class Daemon(_DagsterPart):
    """Evaluates ticks, takes runs from the queue, watches them."""

    module = ("dagster._daemon", "run")

    @property
    def address(self) -> str:
        return "-"

    def answers(self, process: psutil.Process) -> bool:
        try:
            daemons = self.parts.graphql(DAEMON_HEARTBEATS)["instance"]["daemonHealth"]["allDaemonStatuses"]
            since = process.create_time() - HEARTBEAT_SLACK_SECONDS
        except (StackFailed, psutil.NoSuchProcess):
            return False
        return all((one["lastHeartbeatTime"] or 0.0) >= since for one in daemons if one["required"])


class Webserver(_DagsterPart):
    """The UI and GraphQL, on 127.0.0.1."""

    module = ("dagster_webserver",)

    def options(self) -> Sequence[str]:
        return ("--host", "127.0.0.1", "--port", str(self.parts.port))

    @property
    def address(self) -> str:
        return self.parts.url

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.parts.port,)

    def answers(self, process: psutil.Process) -> bool:
        if not listens(process, self.parts.port):
            return False
        try:
            entries = self.parts.graphql(LOCATION_STATUS)["workspaceOrError"]["locationEntries"]
        except StackFailed:
            return False
        return bool(entries) and all(one["loadStatus"] == "LOADED" for one in entries)


class DagsterParts:
    """Dagster on the stack that the settings name, with its folder in `<home>/dagster`.

    Methods raise StackFailed with the last log lines. Different processes may use one home: a file lock orders them.
    Without settings, what was brought up can be looked at and ended.
    """

    def __init__(self, home: Path, settings: Settings | None = None) -> None:
        if settings is not None and settings.dagster_uri is None:
            raise ConfigurationError(
                "K2_DAGSTER_URI is not set", advice="name a PostgreSQL database for Dagster's storage; `k2 dev up` does"
            )
        self.home = home.absolute().resolve()
        self.settings = settings
        self.instance_folder = self.home / "dagster"
        self.workspace = self.instance_folder / "workspace.yaml"
        self.code_server = CodeServer("dagster-code", self)
        self.daemon = Daemon("dagster-daemon", self)
        self.webserver = Webserver("dagster-webserver", self)

    @property
    def parts(self) -> list[Part]:
        """Code server, webserver and daemon."""
        return [self.code_server, self.webserver, self.daemon]

    @property
    def exists(self) -> bool:
        """Whether Dagster was brought up here before, and not purged since."""
        return self.workspace.exists()

    @property
    def port(self) -> int:
        """The webserver's port, chosen by `up` and kept."""
        return int((self.instance_folder / "port").read_text())

    @property
    def url(self) -> str:
        """Where the UI is. Known once `up` has run."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket(self) -> Path:
        """The code server's socket: in the home, or, when that path is too long for one, in the temporary folder."""
        inside = self.home / "run" / "dagster-code.sock"
        if len(os.fsencode(inside)) <= LONGEST_SOCKET_PATH_BYTES:
            return inside
        return Path(tempfile.gettempdir()) / f"k2-{hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]}.sock"

    def up(self, progress: Progress | None = None) -> str:
        """Bring all three up, reusing what runs, and return the UI's address. Runs that a lost code server has left
        behind are marked as canceled: nobody would ever end them."""
        progress = progress or _ignore
        parts, interrupted = self.parts, threading.Event()
        for part in parts:
            part.interrupted = interrupted
        with exclusive(self.home / "run" / "dagster.lock", progress):
            self._lay_out()
            prepare_instance(self.instance_folder, self.environment(), progress)
            was_running = self.code_server.find() is not None
            try:
                side_by_side([partial(part.ensure, progress) for part in parts], interrupted)
            except ExceptionGroup as group:
                raise group.exceptions[0] from group
            self._await_definitions()
            if not was_running:
                self._cancel_orphans(progress)
        return self.url

    def down(self, purge: bool = False, progress: Progress | None = None) -> None:
        """End daemon, webserver and code server, in this order, so that nothing is launched meanwhile; runs end with
        the code server. `purge` removes the folder too (Dagster's storage is in PostgreSQL and stays)."""
        if not self.instance_folder.exists():
            return
        with exclusive(self.home / "run" / "dagster.lock"):
            for part in (self.daemon, self.webserver, self.code_server):
                process = part.find()
                if process is None:
                    continue
                began = time.monotonic()
                stop(process, part.purge_signals if purge else part.stop_signals)
                if not is_over(process):
                    raise StackFailed(f"{part.name} could not be ended", advice="try again")
                (progress or _ignore)(f"{part.name} has ended after {time.monotonic() - began:.1f} s")
            self.socket.unlink(missing_ok=True)
            if purge:
                for folder in (self.instance_folder, *(part.folder for part in self.parts)):
                    shutil.rmtree(folder, ignore_errors=True)

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask the webserver. Raises StackFailed when it does not answer, or answers with errors."""
        return ask(self.url, query, variables, advice=f"see {self.webserver.log}")

    def environment(self) -> dict[str, str]:
        """What the three processes see: the settings, and where the instance is."""
        if self.settings is None:
            raise ConfigurationError("Dagster cannot be started without settings")
        values = as_environment(self.settings) | {"K2_HOME": str(self.home)}
        if self.settings.profiles is not None:
            values["K2_PROFILES"] = str(self.settings.profiles.absolute())
        # Each tick is in Dagster's storage with its reason; four lines for each are 20 MB a day in the daemon's log
        quiet = {"DAGSTER_DAEMON_LOG_LEVEL": "warning"}
        return values | quiet | {"DAGSTER_HOME": str(self.instance_folder), "PYTHONUNBUFFERED": "1"}

    def _lay_out(self) -> None:
        self.instance_folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.instance_folder / "dagster.yaml", INSTANCE_FILE.read_text())
        write_atomically(
            self.workspace,
            f"load_from:\n  - grpc_server:\n      socket: {self.socket}\n      location_name: {LOCATION}\n",
        )
        kept = self.instance_folder / "port"
        if not kept.exists() or (self.webserver.find() is None and not is_free(self.port)):
            write_atomically(kept, str(find_free_port(set())))

    def _await_definitions(self) -> None:
        problem = "no code location"

        def loaded() -> bool:
            nonlocal problem
            entries = self.graphql(LOCATION_STATUS)["workspaceOrError"]["locationEntries"]
            found = [one["locationOrLoadError"] or {} for one in entries]
            bad = [one.get("message", "not loaded") for one in found if one.get("__typename") != "RepositoryLocation"]
            problem = bad[0] if bad else problem
            return bool(found) and not bad

        if not wait_until(loaded, READY_TIMEOUT_SECONDS):
            raise StackFailed(f"Dagster cannot load K2's definitions: {problem}", advice=f"see {self.code_server.log}")

    def _cancel_orphans(self, progress: Progress) -> None:
        found = self.graphql(UNFINISHED_RUNS, {"states": UNFINISHED_STATES})["runsOrError"]["results"]
        runs = [one["runId"] for one in found]
        if runs:
            self.graphql(CANCEL_RUNS, {"runs": runs})
            progress(f"{len(runs)} runs of an earlier code server are marked as canceled")


def _ignore(_: str) -> None:
    """Progress that nobody watches."""
