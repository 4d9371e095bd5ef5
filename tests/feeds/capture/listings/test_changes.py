"""What of a list is news."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.listings.changes import LEAST_SHARE, Changes, Known, changes
from k2_dagster.feeds.capture.listings.listing import BadItem, Listing

Ticks = dict[str, int]
LISTS = st.lists(st.dictionaries(st.sampled_from("ABCDEF"), st.integers(1, 3), min_size=1), min_size=1, max_size=6)


def listing(ticks: Ticks, *refused: str) -> Listing:
    bad = [BadItem(symbol, f"bad {symbol}".encode(), "reason") for symbol in refused]
    return Listing(None, {symbol: {"symbol": symbol, "tick_size": tick} for symbol, tick in ticks.items()}, bad, 0)


def names(found: Changes) -> tuple[list[str], list[str], list[str | None]]:
    return (
        [one["symbol"] for one in found.defined],
        [one["symbol"] for one in found.withdrawn],
        [one.symbol for one in found.refused],
    )


def test_only_news_is_published() -> None:
    known, first = changes(Known(), listing({"A": 1, "B": 1, "C": 1}))
    assert names(first) == (["A", "B", "C"], [], [])
    known, same = changes(known, listing({"C": 1, "B": 1, "A": 1}))
    assert not same.any
    known, later = changes(known, listing({"A": 2, "B": 1, "D": 1}))
    assert names(later) == (["A", "D"], ["C"], [])
    assert later.withdrawn[0]["tick_size"] == 1
    _, again = changes(known, listing({"A": 2, "B": 1, "C": 1, "D": 1}))
    assert names(again) == (["C"], [], [])


def test_an_item_that_cannot_be_read_is_told_once_and_withdraws_nothing() -> None:
    known, _ = changes(Known(), listing({"A": 1, "B": 1}))
    known, first = changes(known, listing({"A": 1}, "B"))
    assert names(first) == ([], [], ["B"])
    known, second = changes(known, listing({"A": 1}, "B"))
    assert not second.any
    _, back = changes(known, listing({"A": 1, "B": 1}))
    assert not back.any


def test_a_list_that_is_cut_short_changes_nothing() -> None:
    known, _ = changes(Known(), listing(dict.fromkeys("ABCD", 1)))
    with pytest.raises(CaptureInvalid, match="the list has 1 of the 4"):
        changes(known, listing({"A": 1}))
    assert len("AB") == LEAST_SHARE * len("ABCD")
    _, half = changes(known, listing(dict.fromkeys("AB", 1)))
    assert names(half)[1] == ["C", "D"]


@given(LISTS)
def test_whoever_follows_the_news_knows_the_newest_list(lists: list[Ticks]) -> None:
    known, followed = Known(), Ticks()
    accepted = Ticks()
    for ticks in lists:
        try:
            known, found = changes(known, listing(ticks))
        except CaptureInvalid:
            continue
        accepted = ticks
        followed |= {one["symbol"]: one["tick_size"] for one in found.defined}
        for one in found.withdrawn:
            del followed[one["symbol"]]
    assert followed == accepted
