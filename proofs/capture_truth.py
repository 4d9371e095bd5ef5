"""What each real capture holds, by parsers that share nothing with K2: standard library only, one line at a time.

The end-to-end proof compares tables, quarantine and gap ledger with these counts and digests. Prices are exact (scaled
integers of `Decimal`), times are Unix microseconds of the venue (of the recorder where the venue tells none).
"""

import gzip
import hashlib
import json
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

SCALE = 8
DIGEST_BYTES = 16
# A level as (price, size); a side as its levels.
Level = tuple[int | None, int | None]


@dataclass
class Truth:
    """Rows per dataset, per (dataset, symbol), and per (dataset, UTC day); holes by the venue's own rule.

    `digests` has the sum of the digests of the rows' values by (dataset, symbol), modulo 2^128: it is the same for the
    same multiset of rows, in whatever order they come.
    """

    rows: Counter[str] = field(default_factory=Counter)
    symbols: Counter[tuple[str, str]] = field(default_factory=Counter)
    days: Counter[tuple[str, str]] = field(default_factory=Counter)
    gaps: list[tuple[str, str, int, int]] = field(default_factory=list)
    duplicates: list[tuple[str, str, int]] = field(default_factory=list)
    digests: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, dataset: str, symbol: str, micros: int, *values: Any) -> None:
        """Count one row with its values: of ticks (sequence, price, size, side, trade id), of quotes (sequence, bid,
        bid size, ask, ask size), of book (sequence, previous, action, bids, asks)."""
        self.rows[dataset] += 1
        self.symbols[dataset, symbol] += 1
        self.days[dataset, utc_day(micros)] += 1
        told = repr((micros, *values)).encode()
        digest = int.from_bytes(hashlib.blake2b(told, digest_size=DIGEST_BYTES).digest(), "big")
        self.digests[dataset, symbol] = (self.digests[dataset, symbol] + digest) % 2 ** (8 * DIGEST_BYTES)

    def merged(self, other: "Truth") -> "Truth":
        """Both together."""
        digests = {
            key: (self.digests[key] + other.digests[key]) % 2 ** (8 * DIGEST_BYTES)
            for key in self.digests | other.digests
        }
        return Truth(
            self.rows + other.rows, self.symbols + other.symbols, self.days + other.days,
            self.gaps + other.gaps, self.duplicates + other.duplicates, Counter(digests),
        )  # fmt: skip


def scaled(number: Any) -> int:
    """A number (text, integer or Decimal) times 10^8. Raises ValueError when that is not whole."""
    value = Decimal(number).scaleb(SCALE)
    if value != int(value):
        raise ValueError(f"{number} has more than {SCALE} decimals")
    return int(value)


def _levels(pairs: Iterable[Any]) -> tuple[Level, ...]:
    return tuple((scaled(price), scaled(size)) for price, size in pairs)


def utc_day(micros: int) -> str:
    """`2024-08-08` of Unix microseconds."""
    return str((datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).date())


def capture_lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield line.rstrip("\n")


class Chain:
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
    chain = Chain(truth)
    for path in paths:
        for line in capture_lines(path):
            nanos, text = line.split(" ", 1)
            message = json.loads(text)
            received = int(nanos) // 1000
            if "stream" not in message:
                time = message["T"] * 1000 if "T" in message else received
                sides = _levels(message["bids"]), _levels(message["asks"])
                truth.add(
                    "book", message.get("symbol", "BTCUSDT"), time, message["lastUpdateId"], None, "snapshot", *sides
                )
                continue
            _binance_message(truth, chain, message["stream"].split("@")[1], message["data"], received)
    return truth


def _binance_message(truth: Truth, chain: Chain, stream: str, data: dict[str, Any], received: int) -> None:
    symbol = data["s"]
    if stream == "trade":
        side = "sell" if data["m"] else "buy"
        traded = scaled(data["p"]), scaled(data["q"]), side, str(data["t"])
        truth.add("ticks", symbol, data["T"] * 1000, data["t"], *traded)
        chain.follow("trade", symbol, data["t"] - 1, data["t"])
    elif stream == "depth":
        before = data.get("pu", data["U"] - 1)
        sides = _levels(data["b"]), _levels(data["a"])
        truth.add("book", symbol, data.get("T", data["E"]) * 1000, data["u"], before, "delta", *sides)
        chain.follow("depth", symbol, before, data["u"])
    else:
        best = (scaled(data[name]) for name in ("b", "B", "a", "A"))
        truth.add("quotes", symbol, data["T"] * 1000 if "T" in data else received, data["u"], *best)


def _recorded(path: Path) -> Iterator[tuple[int, Any]]:
    """(recorder microseconds, message) of what came from the venue; numbers with a point are Decimal."""
    for line in capture_lines(path):
        if line and not line.startswith("wss:"):
            seconds, text = line.split(": ", 1)
            whole, _, fraction = seconds.partition(".")
            micros = int(whole) * 1_000_000 + int(fraction.ljust(6, "0")[:6])
            yield micros, json.loads(text, parse_float=Decimal)


def _iso_micros(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def coinbase(path: Path) -> Truth:
    """Matches, tickers, and book snapshots and changes."""
    truth = Truth()
    chain = Chain(truth)
    for received, message in _recorded(path):
        kind, symbol = message["type"], message.get("product_id", "")
        if kind in ("match", "last_match"):
            side = {"buy": "sell", "sell": "buy"}[message["side"]]
            number = message["trade_id"]
            traded = scaled(message["price"]), scaled(message["size"]), side, str(number)
            truth.add("ticks", symbol, _iso_micros(message["time"]), number, *traded)
            chain.follow("match", symbol, number - 1, number)
        elif kind == "ticker":
            best = scaled(message["best_bid"]), None, scaled(message["best_ask"]), None
            truth.add("quotes", symbol, _iso_micros(message["time"]), message["sequence"], *best)
        elif kind == "snapshot":
            sides = _levels(message["bids"]), _levels(message["asks"])
            truth.add("book", symbol, received, None, None, "snapshot", *sides)
        elif kind == "l2update":
            changed = [
                _levels((price, size) for side, price, size in message["changes"] if side == wanted)
                for wanted in ("buy", "sell")
            ]
            truth.add("book", symbol, _iso_micros(message["time"]), None, None, "delta", *changed)
    return truth


def kraken(path: Path) -> Truth:
    """Trades; a message may hold several."""
    truth = Truth()
    for _, message in _recorded(path):
        if isinstance(message, list):
            for price, size, time, side, *_ in message[1]:
                whole, fraction = time.split(".")
                traded = scaled(price), scaled(size), {"b": "buy", "s": "sell"}[side], None
                truth.add("ticks", message[3], int(whole) * 1_000_000 + int(fraction), None, *traded)
    return truth


def kraken_futures(path: Path) -> Truth:
    """Trades (those of the snapshots too), tickers, and book snapshots and changes."""
    truth = Truth()
    chain = Chain(truth)
    for received, message in _recorded(path):
        feed = None if "event" in message else message.get("feed")
        symbol = message.get("product_id")
        if feed in ("trade", "trade_snapshot"):
            trades = message["trades"] if feed == "trade_snapshot" else [message]
            for trade in sorted(trades, key=lambda one: int(one["seq"])):
                traded = scaled(trade["price"]), scaled(trade["qty"]), trade["side"], trade["uid"]
                truth.add("ticks", symbol, trade["time"] * 1000, trade["seq"], *traded)
                chain.follow("trade", symbol, trade["seq"] - 1, trade["seq"])
        elif feed in ("book", "book_snapshot"):
            truth.add("book", symbol, message["timestamp"] * 1000, message["seq"], None, *_futures_book(message))
            if feed == "book":
                chain.follow("book", symbol, message["seq"] - 1, message["seq"])
        elif feed == "ticker_lite":
            best = [None if message[name] is None else scaled(message[name]) for name in ("bid", "ask")]
            truth.add("quotes", symbol, received, None, best[0], None, best[1], None)
    return truth


def _futures_book(message: dict[str, Any]) -> tuple[str, tuple[Level, ...], tuple[Level, ...]]:
    if message["feed"] == "book_snapshot":
        bids, asks = (_levels((one["price"], one["qty"]) for one in message[side]) for side in ("bids", "asks"))
        return "snapshot", bids, asks
    level = _levels([(message["price"], message["qty"])])
    return ("delta", level, ()) if message["side"] == "buy" else ("delta", (), level)


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
    for number in range(first, first + count):
        (length,) = struct.unpack_from("<H", payload, position)
        body = payload[position + 2 : position + 2 + length]
        position += 2 + length
        truth.types[chr(body[0])] += 1
        _iex_row(truth, number, body)


def _iex_row(truth: Truth, number: int, body: bytes) -> None:
    """Prices are in hundredths of a cent, sizes in shares; a price of 0 is none."""
    if chr(body[0]) in "TB":
        nanos, symbol, size, price, trade_id = struct.unpack_from("<xxq8sIqq", body)
        traded = price * 10**4, size * 10**8, "unknown", str(trade_id)
        truth.add("ticks", symbol.decode().strip(), nanos // 1000, number, *traded)
    elif chr(body[0]) == "Q":
        nanos, symbol, bid_size, bid, ask, ask_size = struct.unpack_from("<xxq8sIqqI", body)
        best = bid * 10**4 or None, bid_size * 10**8, ask * 10**4 or None, ask_size * 10**8
        truth.add("quotes", symbol.decode().strip(), nanos // 1000, number, *best)


def us_equities(path: Path) -> Truth:
    """One day of one symbol's trades or quotes. A quote's side of 0 is its participant's last one."""
    truth = Truth()
    with zipfile.ZipFile(path) as archive:
        (name,) = archive.namelist()
        lines = archive.read(name).decode().split()
    day, symbol, what, _ = name.split("_")
    midnight = datetime.strptime(day, "%Y%m%d").replace(tzinfo=ZoneInfo("America/New_York"))
    start = int(midnight.timestamp()) * 1_000_000
    last: dict[tuple[str, int], Level] = {}
    for line in lines:
        millis, *numbers = line.split(",")
        micros = start + int(millis) * 1000
        if what == "Trade":
            traded = int(numbers[0]) * 10**4, int(numbers[1]) * 10**8, "unknown", None
            truth.add("ticks", symbol.upper(), micros, None, *traded)
            continue
        participant = numbers[4]
        for side, (price, size) in enumerate((numbers[0:2], numbers[2:4])):
            if price != "0":
                last[participant, side] = (int(price) * 10**4, int(size) * 10**8)
        bid, ask = (last.get((participant, side), (None, None)) for side in (0, 1))
        truth.add("quotes", symbol.upper(), micros, None, *bid, *ask)
    return truth
