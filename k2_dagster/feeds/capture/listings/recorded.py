"""The lists of instruments in a recording, read as the live feed read them: the same news, in the same order. Pure.

A list that the live feed could not use gives nothing here either: its line is skipped, by what it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.block import Block, Refusal, Rows, Skip
from k2_dagster.feeds.capture.listings.changes import Changes, Known, changes
from k2_dagster.feeds.capture.listings.listing import ListingSource, read_listing
from k2_dagster.feeds.capture.listings.told import AsOf, news_rows, refusal_of
from k2_dagster.schemas.topics import INSTRUMENTS_DATASET

NO_LIST = "list of instruments, not usable"
NO_NEWS = "list of instruments, nothing new"


@dataclass(frozen=True, slots=True)
class Recorded:
    """The line of a recording that has a list: its number, when it came (Unix nanoseconds), the venue's answer."""

    line: int
    nanos: int
    body: bytes


def with_instruments(
    known: Known, block: Block, exchange: str, source: ListingSource, lists: Sequence[Recorded]
) -> tuple[Known, Block]:
    """The block with what its lists say, and what is known after it. No other rows of it may be of instruments."""
    parts: list[Rows] = []
    refusals: list[Refusal] = []
    skips: list[Skip] = []
    for one in lists:
        try:
            listing = read_listing(source, one.body)
            known, found = changes(known, listing)
        except CaptureInvalid:
            skips.append(Skip(one.line, NO_LIST))
            continue
        if not found.any:
            skips.append(Skip(one.line, NO_NEWS))
        batches = news_rows(exchange, found, AsOf(one.nanos, listing.told_micros))
        parts += [Rows(batch, np.full(batch.num_rows, one.line, np.int64)) for batch in batches]
        refusals += _refusals(one, found)
    rows = dict(block.rows)
    if parts:
        batch = pa.concat_batches([part.batch for part in parts])
        rows[INSTRUMENTS_DATASET] = Rows(batch, np.concatenate([part.orders for part in parts]))
    in_order = sorted([*block.refusals, *refusals], key=lambda one: one.order)
    return known, replace(block, rows=rows, refusals=in_order, skips=[*block.skips, *skips])


def _refusals(one: Recorded, found: Changes) -> list[Refusal]:
    said = ((item, *refusal_of(item)) for item in found.refused)
    return [
        Refusal(one.line, one.line, item.raw, reason, INSTRUMENTS_DATASET, identity) for item, reason, identity in said
    ]
