"""The two servers outside K2 that the proof `halted` needs, on loopback: who is told, and the venue's past trades."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from confluent_kafka import murmur2

# Between two trades of a symbol.
TRADE_MILLIS = 10
PARTITIONS = 2
INCIDENT = "Incident: "


@dataclass(frozen=True)
class Market:
    """What happened at the venue: trades of two symbols, whose messages go to two partitions. Everybody is asked here
    what trade a number was: the feed, the venue's REST interface and the proof itself."""

    exchange: str
    start: datetime

    def symbol(self, partition: int) -> str:
        """The one of two symbols whose key Kafka puts there."""
        names = (f"S{number}-USD" for number in range(1_000))
        return next(one for one in names if murmur2(f"{self.exchange}.{one}".encode(), PARTITIONS) == partition)

    def at(self, number: int) -> datetime:
        """When the trade of this number happened."""
        return self.start + timedelta(milliseconds=TRADE_MILLIS * number)

    def trade(self, number: int) -> dict[str, Any]:
        """As `GET /products/{product_id}/trades` has it."""
        return {
            "trade_id": number,
            "side": "sell" if number % 3 else "buy",
            "size": f"{1 + number % 7}.50000000",
            "price": f"{100 + number % 11}.25000000",
            "time": self.at(number).isoformat(),
        }

    def values(self, number: int) -> tuple[int, Decimal, Decimal, datetime]:
        """Number, price, size and time, as a table has them."""
        trade = self.trade(number)
        return number, Decimal(trade["price"]), Decimal(trade["size"]), self.at(number)


def new_market(exchange: str) -> Market:
    """Its trades have happened within the last minute."""
    return Market(exchange, datetime.now(UTC) - timedelta(minutes=1))


@dataclass
class Outside:
    """Both servers. `told` are the messages that a person got, by incident and number; `asked` the venue's requests."""

    market: Market
    newest: int
    url: str = ""
    told: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @property
    def webhook(self) -> str:
        """As K2_ALERT_URLS takes it."""
        return self.url.replace("http://", "json://")

    def take(self, message: Mapping[str, Any]) -> None:
        """A message to a person."""
        self.told[str(message["message"]).rsplit(INCIDENT, 1)[1].strip()] = message

    def page(self, target: str) -> list[dict[str, Any]]:
        """Trades below a number, newest first, as Coinbase gives them."""
        self.asked.append(target)
        query = {name: int(values[0]) for name, values in parse_qs(urlsplit(target).query).items()}
        below = min(query["after"], self.newest + 1)
        return [self.market.trade(one) for one in range(below - 1, max(0, below - 1 - query["limit"]), -1)]


@contextmanager
def outside(market: Market, newest: int) -> Iterator[Outside]:
    """They serve until the end. The venue has the trades up to `newest`."""
    made = Outside(market, newest)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(b"")

        def do_GET(self) -> None:
            self._answer(json.dumps(made.page(self.path)).encode())

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quietly."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
