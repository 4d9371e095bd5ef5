"""PostgreSQL 18 for the catalog, the control database and Dagster's storage, on a Unix socket only."""

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import psutil
import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from k2_dagster.devstack.downloads import cache_folder, postgres_programs
from k2_dagster.devstack.locking import exclusive
from k2_dagster.devstack.part import Part
from k2_dagster.devstack.process import Command, Progress, is_over, run_tool
from k2_dagster.devstack.state import StackState
from k2_dagster.devstack.ways import open_way
from k2_dagster.errors import StackFailed

DATABASES = ("k2", "dagster")

SUPERUSER = "postgres"

SYSTEM_USER = "pgserver"
"""PostgreSQL refuses to run as root; where we are root, it runs as this user (made when missing)."""

PID_FILE = "postmaster.pid"

SOCKET_FILE = ".s.PGSQL.5432"

LONGEST_SOCKET_PATH_BYTES = 100
"""The system's limit is 107 bytes on Linux and 103 on macOS."""

MAXIMUM_CONNECTIONS = 200
"""Dagster's daemon, webserver and a dozen runs hold up to ten each."""

CALL_TIMEOUT_SECONDS = 5
"""Connecting to a local server; one that recovers from a kill refuses at once and is asked again."""

INITDB_TIMEOUT_SECONDS = 120.0
"""It takes a second, more on a slow disk: it syncs 40 MB."""


class PostgresServer(Part):
    """The database server. Its data are in `<home>/postgres/data`; only its owner may enter the socket's folder."""

    # SIGINT: sessions are cut and the server ends in order. Never SIGKILL first: it would leave shared memory behind.
    stop_signals: ClassVar[Sequence[tuple[signal.Signals, float]]] = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 10.0))
    # After a kill -9 of the server its children take a moment to notice and let go
    passing_failures: ClassVar[Sequence[str]] = ("shared memory block",)
    purge_signals: ClassVar[Sequence[tuple[signal.Signals, float]]] = ((signal.SIGQUIT, 10.0),)

    def __init__(self, home: Path, state: StackState) -> None:
        super().__init__("postgres", home)
        self.data = self.folder / "data"
        self.socket_folder = Path(state.socket_folder)
        self.user = SYSTEM_USER if os.geteuid() == 0 else None
        self.program = "postgres"

    @property
    def address(self) -> str:
        return self.uri("k2")

    def uri(self, database: str) -> str:
        """The SQLAlchemy address of a database. The folder may have any character; an address may not."""
        return f"postgresql+psycopg2://{SUPERUSER}:@/{database}?host={quote(str(self.socket_folder))}"

    def connect(self, database: str = "postgres") -> psycopg2.extensions.connection:
        """A connection in autocommit mode. The caller closes it. Raises psycopg2.OperationalError."""
        connection = psycopg2.connect(
            host=str(self.socket_folder), user=SUPERUSER, dbname=database, connect_timeout=CALL_TIMEOUT_SECONDS
        )
        connection.autocommit = True
        return connection

    def prepare(self, progress: Progress) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_user()
        self._own(self.folder)
        self._own(self.socket_folder)
        if self.user is not None:
            for path in (self.folder, self.socket_folder, postgres_programs()):
                open_way(path, pwd.getpwnam(self.user).pw_uid, self.home, progress)
        if not (self.data / "PG_VERSION").exists():
            self._initialise(progress)
        self._forget_dead_server()

    @property
    def marker(self) -> str:
        return f"-D {self.data} -c"

    def command(self) -> Command:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_folder),
            "max_connections": str(MAXIMUM_CONNECTIONS),
        }
        options = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        return Command(
            arguments=[str(postgres_programs() / "postgres"), "-D", str(self.data), *options],
            folder=self.folder,
            marker=self.marker,
            environment={"LC_ALL": "C"},
            user=self.user,
        )

    def answers(self, process: psutil.Process) -> bool:
        try:
            with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
                cursor.execute("SHOW data_directory")
                row = cursor.fetchone()
        except psycopg2.Error:
            return False
        return row is not None and Path(row[0]) == self.data and _first_number(self.data / PID_FILE) == process.pid

    def settle(self) -> None:
        for name in DATABASES:
            self.create_database(name)

    def create_database(self, name: str) -> None:
        """Create a database unless it exists. Raises StackFailed."""
        try:
            with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
                if cursor.fetchone() is None:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except psycopg2.Error as error:
            raise StackFailed(f"the database {name} cannot be created: {error}") from error

    def _make_user(self) -> None:
        if self.user is None:
            return
        with exclusive(cache_folder() / "system-user.lock"):
            try:
                pwd.getpwnam(self.user)
            except KeyError:
                add = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/sh", self.user]
                run_tool(Command(add, Path("/"), ""), INITDB_TIMEOUT_SECONDS, f"making the system user {self.user}")

    def _own(self, folder: Path) -> None:
        """A private folder of the server's user: the socket trusts whoever may enter it."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = os.geteuid() if self.user is None else pwd.getpwnam(self.user).pw_uid
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (owner, os.geteuid()):
            raise StackFailed(f"{folder} belongs to somebody else", advice="remove it and try again")
        if found.st_uid != owner:
            os.chown(folder, owner, -1)
        folder.chmod(0o700)

    def _initialise(self, progress: Progress) -> None:
        """In a folder beside, which becomes the data folder when it is whole: what a kill leaves is never started."""
        progress("making the PostgreSQL cluster")
        partial = self.data.with_name("data.partial")
        for left in (partial, self.data):
            if left.exists():
                shutil.rmtree(left)
        arguments = ["-D", str(partial), "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--locale=C"]
        command = Command(
            arguments=[str(postgres_programs() / "initdb"), *arguments],
            folder=self.folder,
            marker="",
            environment={"LC_ALL": "C"},
            user=self.user,
        )
        run_tool(command, INITDB_TIMEOUT_SECONDS, "making the PostgreSQL cluster", self.interrupted)
        partial.rename(self.data)

    def _forget_dead_server(self) -> None:
        """Remove the lock files of a killed server where their pid still names something: another program that was
        given it since, or a zombie. PostgreSQL would take either for a server and refuse to start. (Whether children
        of the killed server still run, it sees by the shared memory.)"""
        for lock_file in (self.data / PID_FILE, self.socket_folder / f"{SOCKET_FILE}.lock"):
            pid = _first_number(lock_file)
            if pid is not None and not _is_postgres(pid):
                lock_file.unlink()


def choose_socket_folder(home: Path) -> Path:
    """Where the socket goes: below the home, or, when that path is too long for a socket, in the temporary folder."""
    inside = home / "postgres" / "socket"
    if len(os.fsencode(inside / SOCKET_FILE)) <= LONGEST_SOCKET_PATH_BYTES:
        return inside
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"k2-{name}"


def _is_postgres(pid: int) -> bool:
    """Whether a program of that name runs there. A number below 1 is of a server that ran alone, in initdb: over."""
    try:
        return pid > 0 and not is_over(named := psutil.Process(pid)) and named.name() == "postgres"
    except psutil.NoSuchProcess:
        return False


def _first_number(file: Path) -> int | None:
    """The number on the first line of a file, if there is one."""
    try:
        return int(file.read_text().splitlines()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return None
