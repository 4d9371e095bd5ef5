"""Fetches a venue's list of instruments and reads it, at once and then daily, in a thread of its own: market data would
have to wait for a long one."""

import queue
import random
import threading
import time
from dataclasses import dataclass
from typing import Self

import httpx

from k2_dagster import __version__
from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.listings.listing import Listing, ListingSource, read_listing
from k2_dagster.feeds.capture.source import LINE_HEAD_BYTES, MAX_LINE_BYTES
from k2_dagster.feeds.live.backoff import Backoff, pause_seconds

# Venues list and change instruments a few times a week; who needs it sooner restarts the feed.
REFRESH_SECONDS = 86_400.0
# Between two bytes of an answer, and for the whole of it.
ANSWER_SECONDS = 10.0
WHOLE_ANSWER_SECONDS = 120.0
# The longest known (Binance spot) is some 20 MB. It must fit into a line of a recording.
MOST_BYTES = MAX_LINE_BYTES - LINE_HEAD_BYTES
# Between two tries, while there is none. Definitions are no market data: they can wait longer than a book.
RETRY = Backoff(5.0, 900.0)
# A stop waits this long for an answer that is under way; then the process ends without it.
END_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came, or why nothing did; and when (Unix nanoseconds). `body` is the venue's answer as it came, also when it
    is no list; empty when none came whole."""

    nanos: int
    listing: Listing | None = None
    failure: str = ""
    body: bytes = b""


class ListingFetcher:
    """Answers wait in `taken()` until the feed takes them. `good()` and `bad()` say what became of one: after a bad one
    the next try comes soon. Leaving the `with` block ends it."""

    def __init__(
        self, source: ListingSource, url: str, *, refresh_seconds: float = REFRESH_SECONDS, retry: Backoff = RETRY
    ) -> None:
        self.url = url
        self._source = source
        self._refresh = refresh_seconds
        self._retry = retry
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._judged: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"instruments {url}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._judged.put(False)
        self._thread.join(END_SECONDS)

    def taken(self) -> Answer | None:
        """The next answer, if there is one. It must be judged with `good` or `bad`."""
        try:
            return self._answers.get_nowait()
        except queue.Empty:
            return None

    def good(self) -> None:
        """What was taken is a list: the next one is due tomorrow."""
        self._judged.put(True)

    def bad(self) -> None:
        """What was taken is none: try again soon."""
        self._judged.put(False)

    def _run(self) -> None:
        failures = 0
        with httpx.Client(
            timeout=ANSWER_SECONDS, headers={"User-Agent": f"k2/{__version__}"}, follow_redirects=True
        ) as client:
            while not self._ending.is_set():
                pause = self._fetch(client)
                failures = 0 if self._judged.get() else failures + 1
                due = self._retry.delay_seconds(failures, random.random()) if failures else self._refresh
                self._ending.wait(max(due, pause))

    def _fetch(self, client: httpx.Client) -> float:
        """Put one answer; returns how long the venue wants to be left alone."""
        try:
            body = self._body(client)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            self._answers.put(Answer(time.time_ns(), failure=str(error) or type(error).__name__))
            return pause_seconds(error)
        nanos = time.time_ns()
        try:
            self._answers.put(Answer(nanos, read_listing(self._source, body), body=body))
        except CaptureInvalid as error:
            self._answers.put(Answer(nanos, failure=error.message, body=body))
        return 0.0

    def _body(self, client: httpx.Client) -> bytes:
        deadline = time.monotonic() + WHOLE_ANSWER_SECONDS
        parts: list[bytes] = []
        size = 0
        with client.stream("GET", self.url) as answer:
            answer.raise_for_status()
            for part in answer.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > MOST_BYTES:
                    raise ValueError(f"more than {MOST_BYTES:,} bytes are no list of instruments")
                if time.monotonic() > deadline or self._ending.is_set():
                    raise ValueError(f"the answer was not whole after {WHOLE_ANSWER_SECONDS:g} s")
        return b"".join(parts)
