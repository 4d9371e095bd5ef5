"""Every venue format, and which one a file is in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture import binance_csv, binance_ws, coinbase, iex, kraken, kraken_futures, us_equities
from k2_dagster.feeds.capture.block import Block
from k2_dagster.feeds.capture.lines import Take
from k2_dagster.feeds.capture.recorder import recorded_format
from k2_dagster.feeds.capture.source import Source, open_source

# What is shown of a file that no format recognises.
_SHOWN_BYTES = 80

Read = Callable[[Source, str], Iterator[Block]]


@dataclass(frozen=True)
class Format:
    """A venue format. `version` is part of the publisher session: raise it when the same bytes give other rows, or the
    rows of the new meaning would be taken for duplicates of the old ones. `streams` are (dataset, stream) pairs. `take`
    reads one line, where lines are messages that a feed may receive."""

    name: str
    exchange: str
    version: int
    expected: str
    recognises: Callable[[Source], bool]
    read: Read = field(repr=False)
    streams: tuple[tuple[str, str], ...] = ()
    take: Take | None = field(default=None, repr=False)


_BINANCE = (("ticks", "trade"), ("quotes", "bookTicker"), ("book", "depth"), ("book", "depth_snapshot"))

FORMATS: tuple[Format, ...] = (
    Format(
        "binance_ws", "binance", 3, "Binance websocket lines: `<nanoseconds> <json>`",
        binance_ws.is_spot, binance_ws.read_spot, _BINANCE, binance_ws.take_spot,
    ),
    Format(
        "binance_usdm_ws", "binance_usdm", 2, "Binance USD-M websocket lines: `<nanoseconds> <json>`",
        binance_ws.is_usdm, binance_ws.read_usdm, _BINANCE, binance_ws.take_futures,
    ),
    Format(
        "binance_coinm_ws", "binance_coinm", 3, "Binance COIN-M websocket lines: `<nanoseconds> <json>`",
        binance_ws.is_coinm, binance_ws.read_coinm, _BINANCE, binance_ws.take_futures,
    ),
    Format(
        "binance_trade_csv", "binance", 2, "Binance trades with the header TimestampOfReceive,Stream,..",
        binance_csv.is_trades, binance_csv.read_trades, (("ticks", "trade"),),
    ),
    Format(
        "binance_depth_csv", "binance", 2, "Binance depth with the header TimestampOfReceive,Stream,..",
        binance_csv.is_depth, binance_csv.read_depth, (("book", "depth"),),
    ),
    Format(
        "coinbase_ws", "coinbase", 2, "Coinbase websocket lines: `<seconds>: <json>` after the address",
        coinbase.recognises, coinbase.read,
        (("ticks", "match"), ("quotes", "ticker"), ("book", "level2")), coinbase.take,
    ),
    Format(
        "kraken_ws", "kraken", 2, "Kraken websocket lines: `<seconds>: <json>` after the address",
        kraken.recognises, kraken.read, (("ticks", "trade"), ("quotes", "spread"), ("book", "book")),
        kraken.take,
    ),
    Format(
        "kraken_futures_ws", "kraken_futures", 3, "Kraken Futures lines: `<seconds>: <json>` after the address",
        kraken_futures.recognises, kraken_futures.read,
        (("ticks", "trade"), ("quotes", "ticker_lite"), ("book", "book"), ("book", "book_snapshot")),
        kraken_futures.take,
    ),
    Format(
        "iex_tops", "iex", 2, "IEX TOPS 1.6 in a pcap or pcapng file",
        iex.recognises, iex.read, (("ticks", "tops"), ("quotes", "tops_quote")),
    ),
    Format(
        "us_equities", "us_consolidated", 2, "a zip of {yyyymmdd}_{symbol}_{Trade,Quote}_Tick.csv",
        us_equities.recognises, us_equities.read, (("ticks", "trade"), ("quotes", "quote")),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Capture:
    """A file whose format is known. `exchange` is where its rows go."""

    source: Source
    format: Format
    exchange: str

    @property
    def publisher_session(self) -> str:
        """The same for the same content, whatever the file is called. Reads the file once."""
        return f"{self.format.name}-{self.format.version}-{self.source.content_hash()}"

    def blocks(self) -> Iterator[Block]:
        """The whole capture as rows, a block at a time. Raises CaptureInvalid, also when there is nothing in it."""
        inputs = 0
        for block in self.format.read(self.source, self.exchange):
            inputs += block.inputs
            yield block
        if not inputs:
            raise CaptureInvalid(
                f"{self.source.path}: nothing is in this {self.format.name} capture",
                advice=f"expected {self.format.expected}",
                path=str(self.source.path),
            )


def open_capture(path: Path, exchange: str | None = None) -> Capture:
    """Recognise a file by its content (a zip by its member's name; a recording of ours names its format). `exchange`
    overrides where its rows go.

    Raises CaptureInvalid with what the file starts with and what would be recognised.
    """
    source = open_source(path)
    recorded = recorded_format(source.head)
    for one in FORMATS:
        if one.name == recorded if recorded else one.recognises(source):
            return Capture(source, one, exchange or one.exchange)
    start = source.head[:_SHOWN_BYTES].split(b"\n", 1)[0]
    raise CaptureInvalid(
        f"{path}, line 1: no known capture format; {source.name} starts with {start!r}",
        advice="expected one of: " + "; ".join(one.expected for one in FORMATS),
        path=str(path),
        line=1,
    )
