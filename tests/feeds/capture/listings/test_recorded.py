"""Lists in a recording: whatever blocks it is read in, the news of them is what a live feed published."""

import json

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.block import Block, Refusal
from k2_dagster.feeds.capture.listings.changes import Known, changes
from k2_dagster.feeds.capture.listings.coinbase import COINBASE
from k2_dagster.feeds.capture.listings.listing import read_listing
from k2_dagster.feeds.capture.listings.recorded import Recorded, with_instruments
from k2_dagster.feeds.capture.listings.told import AsOf, news_rows, refusal_of

# A step of 9 decimals does not fit, and an answer that is no list is one of them.
STEPS = st.sampled_from(["0.01", "0.1", "0.000000001"])
LISTS = st.dictionaries(st.sampled_from("ABCDEF"), STEPS, max_size=6)
ANSWERS = st.lists(LISTS, min_size=1, max_size=6)
NANOS = 1_723_161_253_937_085_768


def answer(steps: dict[str, str]) -> bytes:
    return json.dumps(
        [
            {"id": name, "base_currency": name, "quote_currency": "Q", "quote_increment": step}
            for name, step in steps.items()
        ]
    ).encode()


def played(lists: list[Recorded], cut: int) -> list[Block]:
    """The lists in two blocks."""
    known, blocks = Known(), []
    for part in (lists[:cut], lists[cut:]):
        known, block = with_instruments(known, Block(0, len(part), {}), "x", COINBASE, part)
        blocks.append(block)
    return blocks


def live(lists: list[Recorded]) -> tuple[list[pa.RecordBatch], list[tuple[str, bytes]]]:
    """What a feed publishes of them: rows, and what is refused."""
    known, rows, refused = Known(), list[pa.RecordBatch](), list[tuple[str, bytes]]()
    for one in lists:
        try:
            listing = read_listing(COINBASE, one.body)
            known, found = changes(known, listing)
        except CaptureInvalid:
            continue
        rows += news_rows("x", found, AsOf(one.nanos, listing.told_micros))
        refused += [(refusal_of(item)[0], item.raw) for item in found.refused]
    return rows, refused


def seen(refusals: list[Refusal]) -> list[tuple[str, bytes]]:
    return [(one.reason, one.raw) for one in refusals]


@given(ANSWERS, st.integers(0, 6))
def test_any_blocks_give_what_was_published_live(lists: list[dict[str, str]], cut: int) -> None:
    recorded = [Recorded(place, NANOS + place, answer(one)) for place, one in enumerate(lists)]
    blocks = played(recorded, cut)
    rows, refused = live(recorded)
    batches = [block.rows["instruments"].batch for block in blocks if "instruments" in block.rows]
    assert [row for batch in batches for row in batch.to_pylist()] == [row for one in rows for row in one.to_pylist()]
    assert [one for block in blocks for one in seen(list(block.refusals))] == refused
    # each line is in rows, refused or skipped
    for block, part in zip(blocks, (recorded[:cut], recorded[cut:]), strict=True):
        in_rows = set(block.rows["instruments"].orders.tolist()) if "instruments" in block.rows else set()
        told = in_rows | {one.order for one in block.refusals} | {one.order for one in block.skips}
        assert told == {one.line for one in part}
