"""What a person sees: cells of a day, and a gap in words."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.cli.coverage import GLYPHS, MEANINGS
from k2_dagster.coverage.complete import Evidence, Gaps, Held
from k2_dagster.coverage.explaining import explained, what_to_do
from k2_dagster.coverage.picture import CELLS, cells_of, strip_of
from k2_dagster.state.times import from_micros
from tests.coverage.test_complete import extent, gap

WHOLE = (0, 60)
NAMED = ("x", "ticks", "trade", "A")


def drawn(evidence: Evidence) -> str:
    return "".join(GLYPHS[cell][0] for cell in cells_of(evidence, WHOLE, 10))


def test_a_cell_shows_the_worst_that_is_in_it() -> None:
    evidence = Evidence(
        "venue",
        extents=[extent(5, 44)],
        missing=[gap(12, 13), gap(25, 26, state="filled")],
        held=[
            Held(0, "deferred", 28, None, "load"),
            Held(0, "halted", 38, None, "gap"),
            Held(1, "halted", 0, None, "b"),
        ],
    )
    assert drawn(evidence) == "█×DHHH"
    ended = Evidence(
        "venue", [extent(5, 34)], [gap(25, 26, state="filled")], [Held(0, "halted", 8, 39, "gap")], [(50, 60)]
    )
    assert drawn(ended) == "██▒█·-"


def test_every_cell_has_its_own_sign_and_meaning() -> None:
    assert set(GLYPHS) == set(MEANINGS) == set(CELLS)
    assert len({glyph for glyph, _ in GLYPHS.values()}) == len(CELLS)


def test_a_strip_counts_what_came_late_in_the_range() -> None:
    filled = [gap(25, 26, state="filled", count=7), gap(90, 95, state="filled", count=5), gap(3, 4)]
    strip = strip_of(NAMED, Evidence("venue", [extent(0, 100)], filled), WHOLE, 10, (50, 3, 1))
    assert (strip.counts.messages, strip.counts.late_filled) == (50, 7)
    assert isinstance(strip.answer, Gaps)
    assert strip.trouble == CELLS.index("gap")


@given(st.integers(1, 100), st.integers(1, 100))
def test_cells_tile_the_range(length: int, micros: int) -> None:
    assert len(cells_of(Evidence("venue"), (0, length), micros)) == -(-length // micros)


GAP: dict[str, Any] = {
    "id": 3, "state": "open", "level": "page", "numbering": "venue", "dataset": "ticks", "exchange": "x",
    "stream": "trade", "kind": "trade", "channel": "", "session": "", "symbol": "A", "first_sequence": 5,
    "last_sequence": 9, "missing": 5, "filled": 0, "quarantined": 0, "cause": "unknown", "kafka_partition": 2,
    "opened_offset": 7, "reported_offset": 27, "from_time": from_micros(0), "to_time": from_micros(1),
    "seen_at": None, "events": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("others", "wanted"),
    [
        ({"state": "filled"}, "nothing: every number has come"),
        ({"state": "accepted"}, "nothing: somebody has decided"),
        ({"cause": "quarantined"}, "k2 quarantine reprocess --dataset ticks --exchange x"),
        ({"state": "requested"}, "wait: the numbers have been asked for"),
        ({"state": "requested", "events": [{"event": "fail"}]}, "wait: the last attempt failed"),
        ({"state": "requested", "events": [{"event": "recover"}]}, "wait: everything was published again"),
        ({"numbering": "publisher"}, "why the publisher lost them"),
        ({"state": "expired"}, "the request was given up; `k2 gaps request 3` asks the venue"),
        ({}, "`k2 gaps request 3` asks the venue"),
    ],
)
def test_every_gap_has_advice(others: dict[str, Any], wanted: str) -> None:
    assert wanted in what_to_do(GAP | others)


def test_a_gap_says_what_is_not_known() -> None:
    told = explained(GAP | {"from_time": None, "missing": 1, "first_sequence": 5, "last_sequence": 9})
    assert told["missing"].startswith("at least 1 message of A (numbers 5 to 9)")
    assert told["between"].startswith("number 4 at a time that is not known and number 10 at 1970-01-01T")
    assert told["seen"].startswith("offset 7 of market.ticks.x partition 2 showed the hole; the grace was over at")
    channel = explained(GAP | {"numbering": "channel", "channel": "7", "symbol": "*"})
    assert "5 messages of the whole channel" in channel["missing"]
    assert channel["between"].startswith("before 1970-01-01")
