"""One websocket connection: a thread that puts what comes into an intake, until it ends for whatever reason."""

import contextlib
import threading
from collections.abc import Sequence
from typing import Self

import orjson
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from k2_dagster import __version__
from k2_dagster.feeds.capture.source import MAX_FRAME_BYTES
from k2_dagster.feeds.live.intake import Intake
from k2_dagster.feeds.live.venue import Message

# TCP, TLS and the upgrade. A venue that needs longer is away.
CONNECT_SECONDS = 5.0
# The closing handshake. A venue that does not answer it is cut off.
CLOSE_SECONDS = 1.0
# Pings of the protocol, which every venue answers: they find a dead line below the venue's own heartbeat.
PING_SECONDS = 20.0
# Parsed frames inside the library: a small buffer, ours is behind it.
LIBRARY_FRAMES = 256
# Beyond its own timeouts a connection ends at once.
END_MARGIN_SECONDS = 5.0
# Of a reason that a venue gave.
REASON_CHARACTERS = 200


class Connection:
    """Connects at once, in a thread of its own; what happens is in `intake`, the end last. Leaving the `with` block
    ends it."""

    def __init__(self, url: str, intake: Intake) -> None:
        self._url = url
        self._intake = intake
        self._socket: ClientConnection | None = None
        self._ending = threading.Event()
        self._why = ""
        self._thread = threading.Thread(target=self._run, name=f"feed {url}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._intake.close()
        self.end("the feed ended")
        if self._socket is not None:
            self._thread.join(CLOSE_SECONDS + END_MARGIN_SECONDS)

    def send(self, messages: Sequence[Message]) -> None:
        """Send these as JSON; of a connection that has ended, nothing: its end is in the intake."""
        for message in messages:
            payload = orjson.dumps(message)
            self._intake.put("sent", payload)
            if self._socket is not None:
                with contextlib.suppress(ConnectionClosed):
                    self._socket.send(payload.decode())

    def end(self, reason: str) -> None:
        """Close it; its end tells this reason, unless it had ended by itself. May be called again."""
        if self._ending.is_set():
            return
        self._why = reason
        self._ending.set()
        if self._socket is None:
            # Nobody waits for a venue that may never answer; the thread closes what it still gets
            self._intake.put("ended", reason.encode())
        else:
            self._socket.close()

    def _run(self) -> None:
        reason = "the receiving thread failed"
        try:
            reason = self._received()
        finally:
            self._intake.put("ended", (self._why or reason)[:REASON_CHARACTERS].encode())

    def _received(self) -> str:
        """Receive until the end; returns why it ended."""
        try:
            with connect(
                self._url, open_timeout=CONNECT_SECONDS, close_timeout=CLOSE_SECONDS, ping_interval=PING_SECONDS,
                ping_timeout=PING_SECONDS, max_size=MAX_FRAME_BYTES, max_queue=LIBRARY_FRAMES,
                user_agent_header=f"k2/{__version__}",
            ) as socket:  # fmt: skip
                self._socket = socket
                self._intake.put("connected")
                while not self._ending.is_set():
                    self._intake.put("received", socket.recv(decode=False))
        except ConnectionClosed as error:
            return _closed(error)
        except InvalidStatus as error:
            return f"not connected: the venue answered HTTP {error.response.status_code}"
        except TimeoutError:
            return f"not connected within {CONNECT_SECONDS:g} s"
        except (OSError, ValueError, ImportError, WebSocketException) as error:
            # A name that is none, or a proxy of the environment that needs another package, among them
            return f"not connected: {error}"
        return "the feed ended"


def _closed(error: ConnectionClosed) -> str:
    if error.rcvd is not None:
        said = f" ({error.rcvd.reason})" if error.rcvd.reason else ""
        return f"the venue closed it with code {error.rcvd.code}{said}"
    if error.sent is not None:
        said = f" ({error.sent.reason})" if error.sent.reason else ""
        return f"closed with code {error.sent.code}{said}"
    return "the line broke"
