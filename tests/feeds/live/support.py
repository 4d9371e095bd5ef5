"""A venue on this machine: a websocket server that follows a script per connection, and a REST server of snapshots."""

import gzip
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

# What a connection waits for its peer before a test is taken to hang.
WAIT_SECONDS = 20.0

Script = Callable[["Peer"], None]


@dataclass
class Peer:
    """The venue's end of one connection."""

    connection: ServerConnection
    heard: list[Any]

    def hear(self) -> Any:
        """The next message of the client."""
        message = json.loads(self.connection.recv(WAIT_SECONDS))
        self.heard.append(message)
        return message

    def say(self, *frames: str | bytes | dict[str, Any] | list[Any]) -> None:
        """Send frames: text and bytes as they are, the rest as JSON."""
        for frame in frames:
            self.connection.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    def stay(self) -> None:
        """Say nothing more, until the client goes."""
        with suppress(ConnectionClosed):
            while True:
                self.heard.append(json.loads(self.connection.recv()))


@dataclass
class LocalVenue:
    """`heard` are the messages of each connection's client, in order."""

    url: str = ""
    heard: list[list[Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


def wait_for(condition: Callable[[], bool], most_seconds: float = WAIT_SECONDS) -> None:
    """Until it holds; fails after that long."""
    deadline = time.monotonic() + most_seconds
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.01)


@contextmanager
def local_venue(*scripts: Script) -> Iterator[LocalVenue]:
    """Each connection follows the next script, those beyond follow the last one."""
    venue = LocalVenue()

    def handle(connection: ServerConnection) -> None:
        place = len(venue.heard)
        venue.heard.append([])
        assert connection.request is not None
        venue.paths.append(connection.request.path)
        with suppress(ConnectionClosed):
            scripts[min(place, len(scripts) - 1)](Peer(connection, venue.heard[place]))

    with serve(handle, "127.0.0.1", 0, close_timeout=1) as server:
        venue.url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield venue
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def local_snapshots(answers: Callable[[str, int], tuple[int, bytes]]) -> Iterator[str]:
    """A REST server: `answers(symbol, place)` gives status and body of the place-th request (from 0) of a symbol."""
    asked: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            symbol = parse_qs(urlsplit(self.path).query)["symbol"][0]
            status, body = answers(symbol, asked.get(symbol, 0))
            asked[symbol] = asked.get(symbol, 0) + 1
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/depth"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def captured_frames(path: Path) -> list[bytes]:
    """What the venue sent in a capture, without what its recorder wrote around it."""
    with gzip.open(path) as stream:
        lines = stream.read().splitlines()
    found = (re.match(rb"(?:\d{19} |\d+(?:\.\d+)?: )", line) for line in lines)
    return [line[match.end() :] for line, match in zip(lines, found, strict=True) if match]


def acknowledged(message: Any) -> list[Any]:
    """How each venue acknowledges a request."""
    if message.get("method"):
        return [{"result": None, "id": message["id"]}]
    if message.get("type") == "subscribe":
        return [{"type": "subscriptions", "channels": message["channels"]}]
    if "feed" in message:
        told = {"product_ids": message["product_ids"]} if "product_ids" in message else {}
        return [{"event": f"{message['event']}d", "feed": message["feed"], **told}]
    return [
        {"event": "subscriptionStatus", "pair": pair, "status": f"{message['event']}d",
         "subscription": message["subscription"]}
        for pair in message["pair"]
    ]  # fmt: skip


def greet(peer: Peer, requests: int) -> None:
    """Acknowledge the first requests of a client."""
    for _ in range(requests):
        peer.say(*acknowledged(peer.hear()))


def saying(frames: Sequence[Any], requests: int = 1) -> Script:
    """A script that acknowledges, says the frames, and then is silent until the client goes."""

    def script(peer: Peer) -> None:
        greet(peer, requests)
        peer.say(*frames)
        peer.stay()

    return script
