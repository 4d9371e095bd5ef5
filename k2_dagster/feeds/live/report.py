"""What became of a live feed so far, for the progress line and the summary at the end."""

from collections import deque
from dataclasses import asdict, dataclass, field

from k2_dagster.feeds.capture.block import Block
from k2_dagster.feeds.capture.report import BlockReport
from k2_dagster.feeds.live.skew import Skew

# Connections kept for the report; all are counted.
CONNECTIONS_SHOWN = 10


@dataclass
class ConnectionReport:
    """One connection: its publisher session, how long it was, why it ended, the streams of which nothing came, and the
    clocks' difference."""

    publisher_session: str
    seconds: float = 0.0
    ended: str = ""
    silent: list[str] = field(default_factory=list)
    skew: Skew | None = None


@dataclass
class DefinitionsReport:
    """What became of the venue's list of instruments: `lists` that came, definitions that are `known` by them, those
    that were `published` (new or changed) and `withdrawn`, items `refused`. `failures` are lists that could not be had;
    `missing` says why there is none now, as far as that is."""

    lists: int = 0
    known: int = 0
    published: int = 0
    withdrawn: int = 0
    refused: int = 0
    failures: int = 0
    missing: str = ""


@dataclass
class FeedReport(BlockReport):
    """`frames` came from the venue (`snapshots` of them were fetched). `tries` are attempts to connect, `connections`
    those that became one."""

    venue: str
    exchange: str
    symbols: list[str]
    tries: int = 0
    connections: int = 0
    frames: int = 0
    snapshots: int = 0
    snapshot_failures: int = 0
    books_lost: int = 0
    books_waiting: int = 0
    most_queued: int = 0
    definitions: DefinitionsReport = field(default_factory=DefinitionsReport)
    last: deque[ConnectionReport] = field(default_factory=lambda: deque(maxlen=CONNECTIONS_SHOWN))

    def as_document(self) -> dict[str, object]:
        """The report as JSON has it."""
        told = {"last": [asdict(one) for one in self.last], "definitions": asdict(self.definitions)}
        return super().as_document() | told

    def count(self, block: Block) -> None:
        """Add what a published block holds besides its rows."""
        super().count(block)
        self.frames += block.inputs
