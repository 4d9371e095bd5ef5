"""What each real capture holds, by parsers that share nothing with K2: standard library only, one line at a time.

The end-to-end proof compares tables, quarantine and gap ledger with these counts. Prices are `Decimal`, times are Unix
microseconds of the venue (of the recorder where the venue tells none).
"""

import gzip
import json
import struct
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

DAY_MICROS = 86_400_000_000


@dataclass
class Truth:
    """Rows per dataset, per (dataset, symbol), and per (dataset, UTC day); holes by the venue's own rule."""

    rows: Counter[str] = field(default_factory=Counter)
    symbols: Counter[tuple[str, str]] = field(default_factory=Counter)
    days: Counter[tuple[str, str]] = field(default_factory=Counter)
    gaps: list[tuple[str, str, int, int]] = field(default_factory=list)
    duplicates: list[tuple[str, str, int]] = field(default_factory=list)

    def add(self, dataset: str, symbol: str, micros: int) -> None:
        """Count one row."""
        self.rows[dataset] += 1
        self.symbols[dataset, symbol] += 1
        self.days[dataset, utc_day(micros)] += 1

    def merged(self, other: "Truth") -> "Truth":
        """Both together."""
        return Truth(
            self.rows + other.rows, self.symbols + other.symbols, self.days + other.days,
            self.gaps + other.gaps, self.duplicates + other.duplicates,
        )  # fmt: skip


def utc_day(micros: int) -> str:
    """`2024-08-08` of Unix microseconds."""
    return str((datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).date())


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield line.rstrip("\n")


class _Chain:
    """Follows numbers of each (stream, symbol): `first..last` must start where the one before ended."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._last: dict[tuple[str, str], int] = {}

    def follow(self, stream: str, symbol: str, before: int, last: int) -> None:
        """`before` is the number that this message says came before its first."""
        known = self._last.get((stream, symbol))
        if known is not None and before > known:
            self._truth.gaps.append((stream, symbol, known + 1, before))
        if known is not None and last <= known:
            self._truth.duplicates.append((stream, symbol, last))
        self._last[stream, symbol] = max(last, known or last)


def binance_ws(*paths: Path) -> Truth:
    """Files of one symbol, in order of time: one continuous feed."""
    truth = Truth()
    chain = _Chain(truth)
    for path in paths:
        for line in _lines(path):
            nanos, text = line.split(" ", 1)
            message = json.loads(text)
            received = int(nanos) // 1000
            if "stream" not in message:
                symbol = message.get("symbol", "BTCUSDT")
                truth.add("book", symbol, message["T"] * 1000 if "T" in message else received)
                continue
            stream, data = message["stream"].split("@")[1], message["data"]
            symbol = data["s"]
            if stream == "trade":
                truth.add("ticks", symbol, data["T"] * 1000)
                chain.follow("trade", symbol, data["t"] - 1, data["t"])
            elif stream == "depth":
                truth.add("book", symbol, data.get("T", data["E"]) * 1000)
                chain.follow("depth", symbol, data.get("pu", data["U"] - 1), data["u"])
            else:
                truth.add("quotes", symbol, data["T"] * 1000 if "T" in data else received)
    return truth


def _recorded(path: Path) -> Iterator[tuple[int, Any]]:
    """(recorder microseconds, message) of what came from the venue."""
    for line in _lines(path):
        if line and not line.startswith("wss:"):
            seconds, text = line.split(": ", 1)
            whole, _, fraction = seconds.partition(".")
            yield int(whole) * 1_000_000 + int(fraction.ljust(6, "0")[:6]), json.loads(text)


def _iso_micros(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def coinbase(path: Path) -> Truth:
    """Matches, tickers, and book snapshots and changes."""
    truth = Truth()
    chain = _Chain(truth)
    for received, message in _recorded(path):
        kind = message["type"]
        if kind in ("match", "last_match"):
            truth.add("ticks", message["product_id"], _iso_micros(message["time"]))
            chain.follow("match", message["product_id"], message["trade_id"] - 1, message["trade_id"])
        elif kind == "ticker":
            truth.add("quotes", message["product_id"], _iso_micros(message["time"]))
        elif kind == "snapshot":
            truth.add("book", message["product_id"], received)
        elif kind == "l2update":
            truth.add("book", message["product_id"], _iso_micros(message["time"]))
    return truth


def kraken(path: Path) -> Truth:
    """Trades; a message may hold several."""
    truth = Truth()
    for _, message in _recorded(path):
        if isinstance(message, list):
            for trade in message[1]:
                whole, fraction = trade[2].split(".")
                truth.add("ticks", message[3], int(whole) * 1_000_000 + int(fraction))
    return truth


def kraken_futures(path: Path) -> Truth:
    """Trades (those of the snapshots too), tickers, and book snapshots and changes."""
    truth = Truth()
    chain = _Chain(truth)
    for received, message in _recorded(path):
        feed = message.get("feed")
        if "event" in message:
            continue
        symbol = message["product_id"]
        if feed in ("trade", "trade_snapshot"):
            trades = message["trades"] if feed == "trade_snapshot" else [message]
            for trade in sorted(trades, key=lambda one: int(one["seq"])):
                truth.add("ticks", symbol, trade["time"] * 1000)
                chain.follow("trade", symbol, trade["seq"] - 1, trade["seq"])
        elif feed in ("book", "book_snapshot"):
            truth.add("book", symbol, message["timestamp"] * 1000)
            chain.follow("book", symbol, message["seq"] - 1, message["seq"])
        elif feed == "ticker_lite":
            truth.add("quotes", symbol, received)
    return truth


@dataclass
class ChannelTruth(Truth):
    """IEX: beside the rows, the channel's first and last number, its heartbeats and its messages by type."""

    first: int = 0
    last: int = 0
    heartbeats: int = 0
    types: Counter[str] = field(default_factory=Counter)


def iex(path: Path) -> ChannelTruth:
    """A classic little-endian pcap of Ethernet, IPv4 and UDP without options."""
    truth = ChannelTruth()
    with gzip.open(path) as stream:
        data = stream.read()
    position = 24
    while position < len(data):
        captured = struct.unpack_from("<8xI", data, position)[0]
        _take_packet(truth, data[position + 16 + 42 : position + 16 + captured])
        position += 16 + captured
    return truth


def _take_packet(truth: ChannelTruth, payload: bytes) -> None:
    count, first = struct.unpack_from("<14xH8xq", payload)
    truth.heartbeats += not count
    truth.first = truth.first or first
    if truth.last and first > truth.last + 1:
        truth.gaps.append(("channel", "", truth.last + 1, first - 1))
    truth.last = first + count - 1
    position = 40
    for _ in range(count):
        (length,) = struct.unpack_from("<H", payload, position)
        body = payload[position + 2 : position + 2 + length]
        position += 2 + length
        kind = chr(body[0])
        truth.types[kind] += 1
        if kind in "TQB":
            (nanos,) = struct.unpack_from("<q", body, 2)
            truth.add("quotes" if kind == "Q" else "ticks", body[10:18].decode().strip(), nanos // 1000)


def us_equities(path: Path) -> Truth:
    """One day of one symbol's trades or quotes."""
    truth = Truth()
    with zipfile.ZipFile(path) as archive:
        (name,) = archive.namelist()
        lines = archive.read(name).decode().split()
    day, symbol, what, _ = name.split("_")
    midnight = datetime.strptime(day, "%Y%m%d").replace(tzinfo=ZoneInfo("America/New_York"))
    start = int(midnight.timestamp()) * 1_000_000
    for line in lines:
        truth.add("ticks" if what == "Trade" else "quotes", symbol.upper(), start + int(line.split(",")[0]) * 1000)
    return truth


@dataclass(frozen=True)
class Defect:
    """One planted defect of a corrupted twin. `line` is the file's (the header is 1), `found_by` what K2 must report:

    `duplicate` (quarantined with that reason), `gap` (numbers first..last missing), `rule` (quarantined, rule_violated
    or outside_partitions), `day` (the row's partition), `latency` (receive minus exchange time, microseconds),
    `out_of_order` (exchange time behind an earlier message of the symbol).
    """

    line: int
    columns: tuple[str, ...]
    found_by: str
    first: int = 0
    last: int = 0
    day: str = ""
    micros: int = 0


def binance_csv(path: Path) -> Truth:
    """Rows and chain of one CSV of trades, or of depth with consecutive lines of one message as one row."""
    truth = Truth()
    chain = _Chain(truth)
    for message in _messages(_table(path)):
        time = _exchange_micros(message)
        truth.add("ticks" if "TradeId" in message else "book", message["Symbol"], time)
        if not _plausible(time):
            # It will be quarantined, and so claims no number.
            continue
        if "TradeId" in message:
            chain.follow("trade", message["Symbol"], int(message["TradeId"]) - 1, int(message["TradeId"]))
        else:
            chain.follow("depth", message["Symbol"], int(message["FirstUpdateId"]) - 1, int(message["FinalUpdateId"]))
    return truth


def _table(path: Path) -> list[dict[str, str]]:
    lines = list(_lines(path))
    names = lines[0].split(",")
    return [
        dict(zip(names, line.split(","), strict=True), _line=str(number)) for number, line in enumerate(lines[1:], 2)
    ]


def _messages(rows: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Every trade; of depth, the first line of each message (lines that agree in all but side, price and quantity)."""
    before: dict[str, str] = {}
    for row in rows:
        shared = {name: value for name, value in row.items() if name not in ("IsAsk", "Price", "Quantity", "_line")}
        if "TradeId" in row or shared != before:
            yield row
        before = shared


def differences(clean: Path, corrupted: Path) -> dict[int, dict[str, tuple[str, str]]]:
    """Line -> column -> (clean, corrupted) of every cell that differs between the twins."""
    found: dict[int, dict[str, tuple[str, str]]] = defaultdict(dict)
    for left, right in zip(_table(clean), _table(corrupted), strict=True):
        for name, value in left.items():
            if value != right[name]:
                found[int(left["_line"])][name] = (value, right[name])
    return dict(found)


def expected_defects(clean: Path, corrupted: Path) -> list[Defect]:
    """What K2 must report of a corrupted twin, one or more entries per planted defect, in file order.

    Every differing line is covered; raises ValueError for a difference of a kind that is not known here.
    """
    changed = differences(clean, corrupted)
    known: dict[str, int] = {}
    found: list[Defect] = []
    rows = _table(corrupted)
    heads = {row["_line"] for row in _messages(rows)}
    for row in rows:
        line = int(row["_line"])
        cells = changed.get(line, {})
        reports = _sequence_reports(row, known) if row["_line"] in heads else []
        reports += _cell_reports(row, cells)
        if cells and not reports:
            # The message that this line belongs to is reported at its first line.
            if not (found and set(cells) <= set(found[-1].columns)):
                raise ValueError(f"{corrupted.name}, line {line}: no rule for a change of {', '.join(cells)}")
            continue
        found += [Defect(line, tuple(cells), **report) for report in reports]
    return found


def _sequence_reports(row: dict[str, str], known: dict[str, int]) -> list[dict[str, Any]]:
    symbol = row["Symbol"]
    if not _plausible(_exchange_micros(row)):
        # Quarantined, so it claims no number.
        return []
    last = int(row["TradeId"] if "TradeId" in row else row["FinalUpdateId"])
    first = int(row["TradeId"] if "TradeId" in row else row["FirstUpdateId"])
    before = known.get(symbol)
    known[symbol] = max(last, before or last)
    if before is None:
        return []
    reports: list[dict[str, Any]] = []
    if first > before + 1:
        reports.append({"found_by": "gap", "first": before + 1, "last": first - 1})
    if last <= before:
        reports.append({"found_by": "duplicate", "first": first, "last": last})
    return reports


def _cell_reports(row: dict[str, str], cells: dict[str, tuple[str, str]]) -> list[dict[str, Any]]:
    time = _exchange_micros(row)
    if not cells:
        return []
    if not _plausible(time) or ("Price" in cells and row["Price"].startswith("-")):
        return [{"found_by": "rule"}]
    if "Symbol" in cells:
        return [{"found_by": "symbol"}]
    times = {name: cells[name] for name in ("EventTime", "TransactionTime", "TimestampOfReceive") if name in cells}
    moved = [name for name in ("EventTime", "TransactionTime") if name in times]
    if any(utc_day(int(times[name][0])) != utc_day(int(times[name][1])) for name in moved):
        return [{"found_by": "day", "day": utc_day(time)}]
    return [{"found_by": "latency", "micros": int(row["TimestampOfReceive"]) - time}] if times else []


def _exchange_micros(row: dict[str, str]) -> int:
    return int(row["TransactionTime"] if "TransactionTime" in row else row["EventTime"])


def _plausible(micros: int) -> bool:
    return datetime(1980, 1, 1, tzinfo=UTC) <= datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
