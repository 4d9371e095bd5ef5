"""Whether a book can be built from what arrives: snapshot, then changes that follow one another.

Each class has the rule of one kind of venue, for all symbols of one connection. Every message is published whatever is
found here; a finding says that a snapshot is needed, or that the book is whole (again).
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

# The levels of a side that Kraken's checksum covers.
CHECKSUM_LEVELS = 10


class Finding(NamedTuple):
    """`wanted`: a snapshot is needed, nothing was lost. `lost`: the book cannot go on. `synchronised`: it can."""

    symbol: str
    state: Literal["wanted", "lost", "synchronised"]
    reason: str


class Books(Protocol):
    """Looks at book messages in the order of arrival."""

    def look(self, stream: str, data: Any) -> Finding | None:
        """Judge one message, as its capture format parsed it. Raises one of `block.DAMAGE` when it is damaged."""
        ...


@dataclass
class _Chain:
    """`start` is the predecessor of the first update of an unbroken chain, `last` the number of its newest one."""

    start: int | None = None
    last: int = -1
    snapshot: int | None = None
    synchronised: bool = False


class ChainedBooks:
    """Binance: the snapshot comes from elsewhere and has a number. It joins an unbroken chain of updates that begins at
    or before that number; updates up to it are older than the snapshot.

    `previous_of` gives the number that an update follows: `U - 1` for spot, `pu` for futures.
    """

    def __init__(self, previous_of: Callable[[Any], int]) -> None:
        self._previous_of = previous_of
        self._chains: dict[str, _Chain] = {}

    def look(self, stream: str, data: Any) -> Finding | None:
        """See `Books`."""
        if stream == "depth_snapshot":
            return self._snapshot(data["symbol"], int(data["lastUpdateId"]))
        return self._update(data["s"], int(self._previous_of(data)), int(data["u"]))

    def _snapshot(self, symbol: str, number: int) -> Finding | None:
        chain = self._chains.setdefault(symbol, _Chain())
        chain.snapshot = max(number, chain.snapshot or 0)
        return self._joined(symbol, chain)

    def _update(self, symbol: str, previous: int, number: int) -> Finding | None:
        chain = self._chains.setdefault(symbol, _Chain())
        if chain.start is None:
            chain.start, chain.last = previous, number
            return self._joined(symbol, chain) or Finding(symbol, "wanted", "the first update came")
        if number <= chain.last or previous == chain.last:
            chain.last = max(chain.last, number)
            return None
        reason = f"the update after {chain.last} says that it follows {previous}"
        self._chains[symbol] = _Chain(previous, number)
        return Finding(symbol, "lost", reason)

    def _joined(self, symbol: str, chain: _Chain) -> Finding | None:
        if chain.synchronised or chain.start is None or chain.snapshot is None:
            return None
        if chain.start > chain.snapshot:
            reason = f"snapshot {chain.snapshot} is older than the first update, which follows {chain.start}"
            chain.snapshot = None
            return Finding(symbol, "wanted", reason)
        chain.synchronised = True
        return Finding(symbol, "synchronised", f"snapshot {chain.snapshot}")


class NumberedBooks:
    """Kraken Futures: changes of a product have a dense `seq`, its snapshot that of the last change in it."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._seen: dict[str, int] = {}

    def look(self, stream: str, data: Any) -> Finding | None:  # noqa: ARG002  (the message tells what it is)
        """See `Books`. A change before any snapshot is older than the one that is on its way."""
        symbol, number = data["product_id"], int(data["seq"])
        if "bids" in data:
            return self._snapshot(symbol, number)
        last, self._seen[symbol] = self._last.get(symbol), max(number, self._seen.get(symbol, -1))
        if last is None or number <= last:
            return None
        if number == last + 1:
            self._last[symbol] = number
            return None
        del self._last[symbol]
        return Finding(symbol, "lost", f"the change after {last} has number {number}")

    def _snapshot(self, symbol: str, number: int) -> Finding | None:
        if symbol in self._last:
            self._last[symbol] = max(number, self._last[symbol])
            return None
        newest = self._seen.get(symbol, -1)
        if number < newest:
            return Finding(symbol, "wanted", f"snapshot {number} is older than change {newest}")
        self._last[symbol] = number
        return Finding(symbol, "synchronised", f"snapshot {number}")


class SnapshotBooks:
    """Coinbase: changes have no numbers, so only the snapshot of a connection can be waited for."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def look(self, stream: str, data: Any) -> Finding | None:  # noqa: ARG002  (one stream)
        """See `Books`."""
        symbol = data["product_id"]
        if data["type"] != "snapshot" or symbol in self._known:
            return None
        self._known.add(symbol)
        return Finding(symbol, "synchronised", "snapshot")


@dataclass
class _Sides:
    """Price and volume of each level as the venue wrote them, by the price's value."""

    asks: dict[float, tuple[str, str]] = field(default_factory=dict)
    bids: dict[float, tuple[str, str]] = field(default_factory=dict)


class ChecksummedBooks:
    """Kraken: changes carry a CRC32 of the book's best ten levels; a book has at most `depth` levels a side."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._sides: dict[str, _Sides] = {}

    def look(self, stream: str, data: Any) -> Finding | None:  # noqa: ARG002  (one stream)
        """See `Books`."""
        symbol, payload = data["symbol"], data["payload"]
        if "as" in payload or "bs" in payload:
            was_known, sides = symbol in self._sides, _Sides()
            self._change(sides, payload.get("as", ()), payload.get("bs", ()))
            self._sides[symbol] = sides
            return None if was_known else Finding(symbol, "synchronised", "snapshot")
        known = self._sides.get(symbol)
        if known is None:
            return None
        self._change(known, payload.get("a", ()), payload.get("b", ()))
        if "c" not in payload or int(payload["c"]) == (own := checksum(known.asks, known.bids)):
            return None
        del self._sides[symbol]
        return Finding(symbol, "lost", f"the book's checksum is {own}, the venue's {payload['c']}")

    def _change(self, sides: _Sides, asks: Sequence[Sequence[str]], bids: Sequence[Sequence[str]]) -> None:
        for levels, changes, worst in ((sides.asks, asks, max), (sides.bids, bids, min)):
            for price, volume, *_ in changes:
                if float(volume):
                    levels[float(price)] = (price, volume)
                else:
                    levels.pop(float(price), None)
            while len(levels) > self._depth:
                # The venue does not say that a level fell out of the depth that was subscribed to
                del levels[worst(levels)]


def checksum(asks: Mapping[float, tuple[str, str]], bids: Mapping[float, tuple[str, str]]) -> int:
    """Kraken's checksum: digits of price and volume without leading zeros, asks from the lowest, then bids from the
    highest."""
    best = [asks[price] for price in sorted(asks)[:CHECKSUM_LEVELS]]
    best += [bids[price] for price in sorted(bids, reverse=True)[:CHECKSUM_LEVELS]]
    digits = "".join(text.replace(".", "").lstrip("0") for level in best for text in level)
    return zlib.crc32(digits.encode())
