"""A capture file as a stream of decompressed bytes: plain, gzip, or a zip with one member."""

import gzip
import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from k2_dagster.errors import CaptureInvalid

GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK\x03\x04"
# Enough for the first few lines of every venue, a depth snapshot among them.
HEAD_BYTES = 262_144
# One read. A block becomes rows at once, in up to forty times its size, so this bounds memory. Smaller blocks cost
# speed: the columns get short.
BLOCK_BYTES = 1_048_576
# The longest frame known is a full depth snapshot of about 1 MB.
MAX_FRAME_BYTES = 16_777_216
# The longest line is a list of instruments, 20 MB of Binance spot. Without a bound, a file without line ends would be
# read into memory whole.
MAX_LINE_BYTES = 67_108_864
# What a line has before what came from the venue: an address and a time.
LINE_HEAD_BYTES = 4_096
HASH_BYTES = 8


@dataclass
class Meter:
    """How much of the content was read: `done` bytes since it was last begun, of `total` (0: not known yet)."""

    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Source:
    """A capture. `name` is the file's, or the zip member's."""

    path: Path
    name: str
    head: bytes
    meter: Meter = field(default_factory=Meter, compare=False, repr=False)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The decompressed bytes. Raises CaptureInvalid, also for damage met while reading inside the block."""
        try:
            with _opened(self.path) as stream:
                yield stream
        except (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile) as error:
            raise CaptureInvalid(
                f"{self.path}: the compressed data is damaged or cut short: {error}",
                advice="fetch the file again",
                path=str(self.path),
            ) from error
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def blocks(self) -> Iterator[bytes]:
        """The content in pieces of BLOCK_BYTES. Raises CaptureInvalid."""
        self.meter.done = 0
        with self.open() as stream:
            while piece := stream.read(BLOCK_BYTES):
                self.meter.done += len(piece)
                yield piece

    def content_hash(self) -> str:
        """Identity of the content, however it is compressed or named: 16 hexadecimal digits. Reads the file once, and
        so learns its size."""
        digest = hashlib.blake2b(digest_size=HASH_BYTES)
        for piece in self.blocks():
            digest.update(piece)
        self.meter.total = self.meter.done
        return digest.hexdigest()

    def lines(self) -> Iterator[tuple[int, list[bytes]]]:
        """Blocks of whole lines without their ends: (number of the first, from 1; the lines). Raises CaptureInvalid."""
        number, rest = 1, b""
        for piece in self.blocks():
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                raise CaptureInvalid(
                    f"{self.path}, line {number + len(lines)}: no line end within {MAX_LINE_BYTES:,} bytes",
                    advice="expected text lines",
                    path=str(self.path),
                    line=number + len(lines),
                )
            if lines:
                yield number, [line.rstrip(b"\r") for line in lines]
            number += len(lines)
        if rest:
            yield number, [rest.rstrip(b"\r")]


def open_source(path: Path) -> Source:
    """Look at a capture. Raises CaptureInvalid when it cannot be read or is empty."""
    name = path.name
    try:
        if zipfile.is_zipfile(path):
            name = _only_member(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    unread = Source(path, name, b"")
    with unread.open() as stream:
        head = stream.read(HEAD_BYTES)
    if not head:
        raise CaptureInvalid(f"{path}: the file is empty", advice="expected a capture", path=str(path))
    return Source(path, name, head)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic.startswith(GZIP_MAGIC):
            with gzip.open(file) as stream:
                yield cast(IO[bytes], stream)
        elif magic == ZIP_MAGIC:
            with zipfile.ZipFile(file) as archive, archive.open(_only_member(path)) as stream:
                yield stream
        else:
            yield file


def _only_member(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise CaptureInvalid(
            f"{path}: not a readable zip: {error}", advice="fetch the file again", path=str(path)
        ) from error
    if len(names) != 1:
        raise CaptureInvalid(
            f"{path}: the zip has {len(names)} members", advice="expected one member, a CSV of one day", path=str(path)
        )
    return names[0]


def _unreadable(path: Path, error: OSError) -> CaptureInvalid:
    return CaptureInvalid(
        f"{path}: {error.strerror or error}", advice="give the path of a readable capture file", path=str(path)
    )
