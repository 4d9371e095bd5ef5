"""Writes what a feed received and sent as a capture that `k2 play` reads, and numbers its lines."""

import gzip
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Self, cast

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.capture.recorder import connected_line, disconnected_line, header_line, listing_line, sent_line
from k2_dagster.feeds.live.intake import Arrival
from k2_dagster.feeds.live.venue import Venue

GZIP_SUFFIX = ".gz"
# What a kill may cost. Flushing compressed data more often costs size.
FLUSH_SECONDS = 1.0


class Recording:
    """Numbers lines as the file has them, also where there is no file. Leaving the `with` block closes it."""

    def __init__(self, venue: Venue, address: str, path: Path | None) -> None:
        """Raises ConfigurationError when the file is there already or cannot be made."""
        self._venue = venue
        self._address = address
        self._path = path
        self._closing = ExitStack()
        self._number = 0
        self._flushed = time.monotonic()
        self._stream = None if path is None else self._opened(path)
        self._write(header_line(venue.format))

    @property
    def name(self) -> str | None:
        """Of the file; None without one."""
        return None if self._path is None else self._path.name

    def add(self, arrival: Arrival) -> tuple[int, bytes]:
        """Write one arrival; returns the number of its line from 1, and the line as it came (the file has spaces in the
        place of line ends, which mean the same in JSON). Raises ConfigurationError when it cannot be written; leaving
        the block may raise it too."""
        line = self._line(arrival)
        self._write(line)
        return self._number, line

    def add_listing(self, nanos: int, address: str, answer: bytes) -> None:
        """Write the venue's list of instruments as it answered at `nanos` (Unix nanoseconds). Raises as `add`."""
        self._write(listing_line(nanos, address, answer))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._closing.close()
        except OSError as error:
            raise self._unwritable(error) from error

    def _line(self, arrival: Arrival) -> bytes:
        match arrival.kind:
            case "connected":
                return connected_line(arrival.nanos, self._address)
            case "sent":
                return sent_line(arrival.nanos, self._address, arrival.payload)
            case "ended":
                return disconnected_line(arrival.nanos, self._address, arrival.payload.decode(errors="replace"))
            case "received" | "snapshot":
                return self._venue.line(arrival.nanos, arrival.payload)

    def _write(self, line: bytes) -> None:
        self._number += 1
        if self._stream is None:
            return
        try:
            self._stream.write(line.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n")
            if time.monotonic() - self._flushed >= FLUSH_SECONDS:
                self._stream.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            raise self._unwritable(error) from error

    def _opened(self, path: Path) -> IO[bytes]:
        try:
            stream = self._closing.enter_context(path.open("xb"))
            if path.suffix == GZIP_SUFFIX:
                return cast(IO[bytes], self._closing.enter_context(gzip.GzipFile(fileobj=stream, mode="wb")))
        except OSError as error:
            raise self._unwritable(error) from error
        return stream

    def _unwritable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"the recording {self._path} cannot be written: {error.strerror or error}",
            advice="name a file that does not exist yet, in a folder that may be written, with room",
            path=str(self._path),
        )
