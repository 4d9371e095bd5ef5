import itertools
import zlib
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.feeds.live.binance import SPOT, USDM
from k2_dagster.feeds.live.books import (
    Books,
    ChainedBooks,
    ChecksummedBooks,
    Finding,
    NumberedBooks,
    SnapshotBooks,
    checksum,
)


def update(previous: int, last: int, first: int | None = None) -> dict[str, Any]:
    return {"s": "X", "U": previous + 1 if first is None else first, "u": last, "pu": previous}


def states(books: Books, *messages: dict[str, Any]) -> list[str | None]:
    found = [books.look("depth_snapshot" if "lastUpdateId" in one else "depth", one) for one in messages]
    return [one.state if one else None for one in found]


def snapshot(number: int) -> dict[str, Any]:
    return {"symbol": "X", "lastUpdateId": number}


@pytest.mark.parametrize("books", [SPOT.books, USDM.books])
def test_a_snapshot_joins_a_chain_that_begins_at_or_before_it(books: Any) -> None:
    assert states(books(), update(9, 12), update(12, 15), snapshot(9)) == ["wanted", None, "synchronised"]
    assert states(books(), update(9, 12), snapshot(8), snapshot(20)) == ["wanted", "wanted", "synchronised"]
    assert states(books(), snapshot(20), update(9, 12), update(12, 25)) == [None, "synchronised", None]
    assert states(books(), snapshot(5), update(9, 12)) == [None, "wanted"]


def test_spot_counts_from_the_first_number_and_futures_from_the_predecessor() -> None:
    jump = update(12, 15, first=14)
    assert states(SPOT.books(), update(9, 12), jump) == ["wanted", "lost"]
    assert states(USDM.books(), update(9, 12), jump) == ["wanted", None]


def test_what_was_seen_before_is_no_hole() -> None:
    assert states(SPOT.books(), update(9, 12), update(12, 15), update(9, 12), update(12, 15), update(15, 16)) == [
        "wanted", None, None, None, None,
    ]  # fmt: skip


@settings(deadline=None)
@given(
    steps=st.lists(st.integers(1, 5), min_size=2, max_size=30),
    kept=st.lists(st.booleans(), min_size=30, max_size=30),
    repeated=st.lists(st.integers(0, 3), min_size=30, max_size=30),
)
def test_a_chain_is_lost_where_an_update_between_two_is_missing_and_nowhere_else(
    steps: list[int], kept: list[bool], repeated: list[int]
) -> None:
    ends = [sum(steps[: place + 1]) for place in range(len(steps))]
    delivered = [place for place in range(len(steps)) if kept[place]]
    books = ChainedBooks(lambda data: int(data["pu"]))
    lost = []
    for place in delivered:
        for again in range(1 + (repeated[place] == 0)):
            finding = books.look("depth", update(ends[place] - steps[place], ends[place]))
            if finding is not None and finding.state == "lost":
                assert not again
                lost.append(place)
    assert lost == [now for before, now in itertools.pairwise(delivered) if now != before + 1]


@settings(deadline=None)
@given(kept=st.lists(st.booleans(), min_size=1, max_size=30), again=st.sets(st.integers(0, 29)))
def test_a_numbered_book_is_lost_at_the_first_missing_change_until_a_snapshot(
    kept: list[bool], again: set[int]
) -> None:
    books, whole, seen = NumberedBooks(), False, -1
    for number, is_kept in enumerate(kept, 1):
        if number in again:
            finding = books.look("book", {"product_id": "X", "seq": number - 1, "bids": [], "asks": []})
            fits = number - 1 >= seen
            assert (None if whole else "synchronised" if fits else "wanted") == (finding.state if finding else None)
            whole, last = whole or fits, number - 1
        if not is_kept:
            continue
        seen = number
        finding = books.look("book", {"product_id": "X", "seq": number, "side": "buy"})
        is_next = whole and number == last + 1
        assert (finding is not None and finding.state == "lost") == (whole and not is_next)
        whole, last = is_next, number


def test_a_book_without_numbers_waits_for_the_snapshot_of_its_connection() -> None:
    books = SnapshotBooks()
    change, whole = {"type": "l2update", "product_id": "X"}, {"type": "snapshot", "product_id": "X"}
    found = [books.look("level2", one) for one in (change, whole, change, whole)]
    assert found == [None, Finding("X", "synchronised", "snapshot"), None, None]


# The example of the venue's documentation
ASKS = [f"0.05{number:03}" for number in range(5, 55, 5)]
BIDS = ["0.05000", "0.04995", "0.04990", "0.04980", "0.04975", "0.04970", "0.04965", "0.04960", "0.04955", "0.04950"]
EXAMPLE = 974_947_235


def level(price: str, volume: str = "0.00000500") -> list[str]:
    return [price, volume, "1582905486.493008"]


def kraken(**payload: Any) -> dict[str, Any]:
    return {"symbol": "X", "payload": payload}


def test_the_checksum_is_that_of_the_venues_example() -> None:
    whole = kraken(**{"as": [level(one) for one in ASKS], "bs": [level(one) for one in BIDS]})
    books = ChecksummedBooks(10)
    assert books.look("book", whole) == Finding("X", "synchronised", "snapshot")
    assert books.look("book", kraken(a=[level("0.05005")], c=str(EXAMPLE))) is None
    finding = books.look("book", kraken(b=[level("0.05000", "0.00000600")], c=str(EXAMPLE)))
    assert finding is not None
    assert finding.state == "lost"
    assert finding.reason.endswith(f"the venue's {EXAMPLE}")
    assert books.look("book", kraken(a=[level("0.05005")], c="1")) is None
    again = books.look("book", whole)
    assert again is not None
    assert again.state == "synchronised"


def expected_checksum(asks: dict[Decimal, str], bids: dict[Decimal, str]) -> int:
    """Of the published rule, by decimals: price with 5 decimals, volume with 8."""
    best = [(price, asks[price]) for price in sorted(asks)[:10]]
    best += [(price, bids[price]) for price in sorted(bids)[::-1][:10]]
    return zlib.crc32("".join(f"{int(price * 100_000)}{int(Decimal(size) * 10**8)}" for price, size in best).encode())


CHANGES = st.lists(
    st.tuples(st.booleans(), st.integers(1, 40), st.sampled_from([0, 1, 500, 12_345_678])), min_size=1, max_size=60
)


@settings(deadline=None)
@given(changes=CHANGES, depth=st.sampled_from([10, 12, 25]))
def test_a_book_that_is_followed_in_full_has_the_venues_checksum(
    changes: Sequence[tuple[bool, int, int]], depth: int
) -> None:
    asks: dict[Decimal, str] = {}
    bids: dict[Decimal, str] = {}
    books = ChecksummedBooks(depth)
    books.look("book", kraken(**{"as": [], "bs": []}))
    for is_ask, place, units in changes:
        price = Decimal(place + 50 if is_ask else place).scaleb(-5)
        size = f"{Decimal(units).scaleb(-8):.8f}"
        side, worst = (asks, max) if is_ask else (bids, min)
        if units:
            side[price] = size
        else:
            side.pop(price, None)
        if len(side) > depth:
            del side[worst(side)]
        told = expected_checksum(asks, bids)
        key = "a" if is_ask else "b"
        assert books.look("book", kraken(**{key: [level(f"{price:.5f}", size)], "c": str(told)})) is None


def test_the_checksum_of_an_empty_book() -> None:
    assert checksum({}, {}) == 0


def test_a_snapshot_with_the_number_of_the_last_change_is_whole() -> None:
    """What a venue sends after a hole, or to a new connection, when nothing has changed since."""
    books = NumberedBooks()
    whole = {"product_id": "X", "seq": 14, "bids": [], "asks": []}
    found = [books.look("book", {"product_id": "X", "seq": number, "side": "buy"}) for number in (13, 14)]
    assert found == [None, None]
    assert books.look("book_snapshot", whole) == Finding("X", "synchronised", "snapshot 14")
    assert books.look("book", {"product_id": "X", "seq": 15, "side": "buy"}) is None
    lost = books.look("book", {"product_id": "X", "seq": 17, "side": "buy"})
    assert lost is not None
    older = books.look("book_snapshot", {**whole, "seq": 16})
    assert older == Finding("X", "wanted", "snapshot 16 is older than change 17")
    assert books.look("book_snapshot", {**whole, "seq": 17}) == Finding("X", "synchronised", "snapshot 17")
