"""Fetches book snapshots from a venue's REST interface, one after another, in a thread of its own."""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Self

import httpx
import orjson

from k2_dagster import __version__
from k2_dagster.feeds.capture.source import MAX_FRAME_BYTES
from k2_dagster.feeds.live.backoff import pause_seconds
from k2_dagster.feeds.live.intake import Intake
from k2_dagster.feeds.live.venue import Venue

LOG = logging.getLogger(__name__)
# An answer comes within a second; a stop waits for one that is under way.
ANSWER_SECONDS = 5.0
# Between two requests: a snapshot of a thousand levels costs up to 50 of the 2,400 to 6,000 that a minute has.
BETWEEN_SECONDS = 1.5
END_MARGIN_SECONDS = 5.0


class SnapshotFetcher:
    """A symbol that is asked for while it waits is fetched once. What cannot be fetched is logged and counted in
    `failures`: whoever needs it asks again. Leaving the `with` block ends it."""

    def __init__(self, venue: Venue, url: str) -> None:
        self.failures = 0
        self._venue = venue
        self._url = url
        self._wanted: queue.SimpleQueue[tuple[str, Intake] | None] = queue.SimpleQueue()
        self._waiting: set[tuple[str, int]] = set()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"snapshots {url}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._wanted.put(None)
        self._thread.join(ANSWER_SECONDS + END_MARGIN_SECONDS)

    def fetch(self, symbol: str, intake: Intake) -> None:
        """Put the symbol's snapshot into the intake when it has come."""
        if (symbol, id(intake)) not in self._waiting:
            self._waiting.add((symbol, id(intake)))
            self._wanted.put((symbol, intake))

    def _run(self) -> None:
        headers = {"User-Agent": f"k2/{__version__}"}
        with httpx.Client(timeout=ANSWER_SECONDS, headers=headers) as client:
            while (item := self._wanted.get()) is not None and not self._ending.is_set():
                symbol, intake = item
                self._waiting.discard((symbol, id(intake)))
                if intake.is_closed:
                    continue
                try:
                    intake.put("snapshot", named(self._answer(client.get, symbol), symbol))
                except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                    self.failures += 1
                    LOG.warning("no book snapshot of %s: %s", symbol, error)
                    self._ending.wait(pause_seconds(error))
                self._ending.wait(BETWEEN_SECONDS)

    def _answer(self, get: Callable[..., httpx.Response], symbol: str) -> bytes:
        query = self._venue.snapshot_query
        answer = get(self._url, params=dict(query(symbol)) if query else {})
        answer.raise_for_status()
        if len(answer.content) > MAX_FRAME_BYTES:
            raise ValueError(f"{len(answer.content):,} bytes are more than any snapshot")
        return answer.content


def named(body: bytes, symbol: str) -> bytes:
    """The snapshot with the symbol that it was asked for, its text untouched otherwise. What is no object stays as it
    is: its format refuses it."""
    start = body.lstrip()
    if not start.startswith(b"{") or b'"symbol"' in start:
        return start
    comma = b"" if start[1:].lstrip().startswith(b"}") else b","
    return b'{"symbol":%s%s' % (orjson.dumps(symbol), comma) + start[1:]
