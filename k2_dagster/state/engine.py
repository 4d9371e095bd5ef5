"""Connections to PostgreSQL that never wait for ever: the one place where they are made.

libpq waits without a limit of its own, and while it waits no signal handler of Python runs. So its waits are done here,
in slices: a server that is frozen or behind a broken line is given up after a while, and soon once the process stops.
The server's own limit for a statement is shorter and comes first while the server lives.
"""

import os
import select
import socket
import threading
import time
from functools import partial
from typing import Any

import psycopg2
from psycopg2 import extensions
from sqlalchemy import Engine, create_engine, make_url

from k2_dagster.observability.stopping import NEVER

# A statement of ours that takes longer than this is stuck behind a lock that somebody holds.
STATEMENT_TIMEOUT_SECONDS = 30
# A new connection takes milliseconds; a server that is starting or busy, a second or two.
CONNECT_TIMEOUT_SECONDS = 5
# Beyond the server's own limit: it does not answer at all.
ANSWER_TIMEOUT_SECONDS = STATEMENT_TIMEOUT_SECONDS + 5
# A process that was asked to stop has five seconds: for an answer that is under way, and for giving its leases back.
STOPPING_TIMEOUT_SECONDS = 1.0
# How soon a stop is noticed while waiting.
SLICE_SECONDS = 0.1
# One connection holds a commit lock while another writes; a few more serve status commands.
POOL_CONNECTIONS = 5
# So many more for a moment, so that holders of a lock never wait for each other's second connection.
POOL_OVERFLOW = 5
# A caller waits this long for a free connection of the pool; all of them are busy for longer only when they hang.
POOL_TIMEOUT_SECONDS = 10
# Lines that break without a word are noticed by the system: silent for 10 s, then three probes 5 s apart.
LINE_OPTIONS = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds that sent data may stay unacknowledged
}
# PostgreSQL keeps this much of an application's name.
NAME_CHARACTERS = 63


class Server:
    """What the connections of one engine know of their server. After a stop, one silence is enough for all of them."""

    def __init__(self, stop: threading.Event, connect_seconds: float) -> None:
        self.stop = stop
        self.connect_seconds = connect_seconds
        self.silent = False


class BoundedConnection(extensions.connection):
    """A connection whose waits end: see `_wait`."""

    def __init__(self, dsn: str, server: Server, **others: Any) -> None:
        self.server = server
        super().__init__(dsn, **others)


def make_engine(uri: str, stop: threading.Event = NEVER) -> Engine:
    """An engine for a SQLAlchemy URI, whose own limits, name and options are kept.

    Once `stop` is set, a statement or connection that is not answered within STOPPING_TIMEOUT_SECONDS fails, and every
    later one at once. Connects to nothing yet.
    """
    extensions.set_wait_callback(_wait)
    url = make_url(uri)
    server = Server(stop, float(str(url.query.get("connect_timeout", CONNECT_TIMEOUT_SECONDS))))
    given = url.query.get("options", "")
    options: dict[str, Any] = {
        **{name: value for name, value in LINE_OPTIONS.items() if name not in url.query},
        "options": f"-c statement_timeout={STATEMENT_TIMEOUT_SECONDS * 1000} {given} -c timezone=UTC",
        "connection_factory": partial(BoundedConnection, server=server),
    }
    if "application_name" not in url.query:
        options["application_name"] = f"k2 {socket.gethostname()}:{os.getpid()}"[:NAME_CHARACTERS]
    return create_engine(
        url,
        pool_size=POOL_CONNECTIONS,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        pool_pre_ping=True,
        connect_args=options,
    )


def _wait(connection: extensions.connection) -> None:
    """psycopg2 calls this, for every connection of the process, wherever it would wait for the server."""
    server = connection.server if isinstance(connection, BoundedConnection) else None
    patience = None if server is None else _Patience(server, connection.status == extensions.STATUS_SETUP)
    while (state := connection.poll()) != extensions.POLL_OK:
        waiting = select.poll()
        waiting.register(connection.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT)
        while not waiting.poll(SLICE_SECONDS * 1000):
            if patience is not None:
                patience.check()


class _Patience:
    """How long one wait may still last."""

    def __init__(self, server: Server, connecting: bool) -> None:
        self._server = server
        self._what = "no connection" if connecting else "no answer"
        self._limit_seconds = server.connect_seconds if connecting else ANSWER_TIMEOUT_SECONDS
        self._deadline = time.monotonic() + self._limit_seconds
        self._stopping = False

    def check(self) -> None:
        """Raises OperationalError when it is over; psycopg2 closes the connection then."""
        if self._server.stop.is_set() and not self._stopping:
            self._stopping = True
            self._limit_seconds = STOPPING_TIMEOUT_SECONDS
            self._deadline = min(self._deadline, time.monotonic() + STOPPING_TIMEOUT_SECONDS)
        if time.monotonic() > self._deadline or (self._stopping and self._server.silent):
            self._server.silent = self._stopping
            reason = ", and this process was asked to stop" if self._stopping else ""
            raise psycopg2.OperationalError(f"{self._what} within {self._limit_seconds:g} s{reason}")
