"""A local HTTP server that answers like the venues' REST interfaces: in the shapes that they document, written by hand.

`Archive` has trades by id and gives pages of them as Binance and Coinbase do; `scripted` answers come before its own.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

MILLIS = 1_767_225_600_000
# Status, body, headers.
Answer = tuple[int, bytes, dict[str, str]]


def binance_trade(number: int, **values: Any) -> dict[str, Any]:
    """As `GET /api/v3/historicalTrades` has it."""
    return {
        "id": number, "price": "5.00000000", "qty": "2.00000000", "quoteQty": "10.00000000",
        "time": MILLIS + number * 1_000, "isBuyerMaker": False, "isBestMatch": True, **values,
    }  # fmt: skip


def coinbase_trade(number: int, **values: Any) -> dict[str, Any]:
    """As `GET /products/{product_id}/trades` has it; `side` is the maker's."""
    return {
        "trade_id": number, "side": "sell", "size": "2.00000000", "price": "5.00000000",
        "time": f"2026-01-01T00:{number // 60:02}:{number % 60:02}.000000Z", **values,
    }  # fmt: skip


@dataclass
class Archive:
    """What the venue has, and how it was asked."""

    numbers: Sequence[int] = ()
    page: int = 1_000
    changed: dict[int, dict[str, Any]] = field(default_factory=dict)
    scripted: list[Answer] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def answer(self, path: str, query: dict[str, str]) -> Answer:
        if self.scripted:
            return self.scripted.pop(0)
        limit = min(self.page, int(query["limit"]))
        if path.endswith("/historicalTrades"):
            found = [one for one in sorted(self.numbers) if one >= int(query["fromId"])][:limit]
            trades = [binance_trade(one, **self.changed.get(one, {})) for one in found]
        else:
            found = [one for one in sorted(self.numbers, reverse=True) if one < int(query["after"])][:limit]
            trades = [coinbase_trade(one, **self.changed.get(one, {})) for one in found]
        return 200, json.dumps(trades).encode(), {}


@contextmanager
def serving(archive: Archive) -> Iterator[str]:
    """Its address while it serves."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            archive.asked.append((parts.path, query))
            archive.headers.append(dict(self.headers.items()))
            status, body, headers = archive.answer(parts.path, query)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quietly."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
