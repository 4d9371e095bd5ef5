"""A PostgreSQL whose answer to one catalog commit is lost: a proxy that forwards everything, but cuts the connection
when the server has confirmed the commit of a table's new metadata."""

import contextlib
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import make_url

_SOCKET_NAME = ".s.PGSQL.5432"
_CHUNK_BYTES = 65_536
# The statement by which PyIceberg's SQL catalog moves a table to its new metadata.
_CATALOG_UPDATE = b"UPDATE iceberg_tables"
_COMMIT = b"COMMIT"
_LISTEN_BACKLOG = 16


@dataclass
class LossyPostgres:
    """`uri` leads through the proxy. `cut` counts the lost answers, at most `answers_to_lose`."""

    uri: str
    answers_to_lose: int
    cut: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def may_cut(self) -> bool:
        """Take one of the answers to lose, if any is left."""
        with self._lock:
            if self.cut >= self.answers_to_lose:
                return False
            self.cut += 1
            return True


@contextmanager
def lossy_postgres(uri: str, answers_to_lose: int = 1) -> Iterator[LossyPostgres]:
    """Stand before the server at `uri` (a SQLAlchemy URI with a socket folder as its host)."""
    url = make_url(uri)
    target = f"{url.query['host']}/{_SOCKET_NAME}"
    # Short, because a socket lives in it
    with tempfile.TemporaryDirectory(prefix="k2-lossy-") as folder, socket.socket(socket.AF_UNIX) as listener:
        through = url.update_query_dict({"host": folder}).render_as_string(hide_password=False)
        proxy = LossyPostgres(through, answers_to_lose)
        listener.bind(f"{folder}/{_SOCKET_NAME}")
        listener.listen(_LISTEN_BACKLOG)
        accepting = threading.Thread(target=_accept, args=(listener, target, proxy), daemon=True)
        accepting.start()
        try:
            yield proxy
        finally:
            # A blocked accept ends when the socket is shut down, not when it is closed
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _accept(listener: socket.socket, target: str, proxy: LossyPostgres) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.socket(socket.AF_UNIX)
        server.connect(target)
        connection = _Connection(client, server, proxy)
        for body in (connection.forward_requests, connection.forward_answers):
            threading.Thread(target=body, daemon=True).start()


@dataclass
class _Connection:
    client: socket.socket
    server: socket.socket
    proxy: LossyPostgres
    updating: bool = False
    losing: bool = False

    def forward_requests(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.client.recv(_CHUNK_BYTES):
                self.updating |= _CATALOG_UPDATE in data
                if self.updating and _COMMIT in data:
                    self.updating, self.losing = False, self.proxy.may_cut()
                self.server.sendall(data)
        self._close()

    def forward_answers(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.server.recv(_CHUNK_BYTES):
                if self.losing:
                    # The server has done it; nobody hears of it
                    break
                self.client.sendall(data)
        self._close()

    def _close(self) -> None:
        for one in (self.client, self.server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
