"""Receivers and signals for the tests of alerts."""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sqlalchemy import select

from k2_dagster.alerts.delivery import Deliverer
from k2_dagster.alerts.messages import Links, Message
from k2_dagster.alerts.signals import Reading, Severity, Signal
from k2_dagster.alerts.targets import Target
from k2_dagster.errors import AlertUndelivered
from k2_dagster.state.database import Database
from k2_dagster.state.tables import incident_deliveries as deliveries

LINKS = Links("http://dagster.example:3000", "https://docs.example")
A, B = Target("a", "warning", "json://a"), Target("b", "error", "json://b")


def signal(severity: Severity = "error", text: str = "it broke") -> Signal:
    """One that says where it is."""
    return Signal(severity, "Something broke", text, "Mend it.", "run", run_id="r1")


def reading(**signals: Signal) -> Reading:
    """Of the source `test`, which tells about the keys `test/...`."""
    return Reading("test", ("test/",), {f"test/{name}": one for name, one in signals.items()})


@dataclass
class Sent:
    """Stands for the services: what they got, in order. `down` are the names of targets that take nothing."""

    messages: list[Message] = field(default_factory=list)
    # Target and `KEY#NUMBER` of each message
    told: list[tuple[str, str]] = field(default_factory=list)
    down: set[str] = field(default_factory=set)

    def send(self, target: Target, message: Message) -> None:
        if target.name in self.down:
            raise AlertUndelivered(f"{target.name} did not take it: down", target=target.name)
        self.messages.append(message)
        self.told.append((target.name, message.identity))

    @property
    def said(self) -> list[str]:
        """Identities as people read them; of a group see `expanded`."""
        return [one.body.rsplit("Incident: ", 1)[1] for one in self.messages]


def deliverer(database: Database, sent: Sent) -> Deliverer:
    """One that nothing stops."""
    return Deliverer(database, threading.Event(), sent.send)


@dataclass
class Receiver:
    """A webhook that keeps what it got. `status` is its answer (with `refuses`, 503 to messages and not to heartbeats);
    `meet` is called with each message before it is kept and answered.
    """

    url: str = ""
    got: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    meet: Callable[[dict[str, Any]], None] = lambda _: None
    refuses: bool = False
    beats: int = 0

    @property
    def identities(self) -> list[str]:
        """`KEY#NUMBER` of each message, in order; of a group see `expanded`."""
        return [one["message"].rsplit("Incident: ", 1)[1] for one in self.got]

    @property
    def titles(self) -> list[str]:
        """In order."""
        return [str(one["title"]) for one in self.got]


def expanded(database: Database, identities: Iterable[str]) -> Counter[str]:
    """How often each `KEY#NUMBER` was told, by messages of one and of groups."""
    out: Counter[str] = Counter()
    for identity in identities:
        found = re.fullmatch(r"\S+ and (\d+) more \(group (\d+)\)", identity)
        if found is None:
            out[identity] += 1
            continue
        query = select(deliveries.c.key, deliveries.c.number).where(deliveries.c.told_with == int(found[2]))
        with database.begin() as connection:
            members = [f"{row.key}#{row.number}" for row in connection.execute(query)]
        assert len(members) == int(found[1]) + 1
        out.update(members)
    return out


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A receiver on loopback; the port is free to choose."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            receiver.meet(document)
            took = receiver.status == 200 and not receiver.refuses
            if took:
                receiver.got.append(document)
            self._answer(200 if took else 503 if receiver.refuses else receiver.status)

        def do_GET(self) -> None:
            receiver.beats += receiver.status == 200
            self._answer(receiver.status)

        def _answer(self, status: int) -> None:
            try:
                self.send_response(status)
                self.end_headers()
            except (BrokenPipeError, ConnectionResetError):
                pass  # whoever sent it was killed

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    receiver.url = f"json://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
