"""The news of a venue's list of instruments as rows and refusals, of a live feed and of a recording alike. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from k2_dagster.feeds.capture.block import times, timestamps, wire_batch
from k2_dagster.feeds.capture.listings.changes import Changes
from k2_dagster.feeds.capture.listings.listing import BadItem, Definition, own_columns
from k2_dagster.schemas.common import RECEIVER_CLOCK, TIME_SOURCE_FIELD
from k2_dagster.schemas.instruments import INSTRUMENTS, STREAM
from k2_dagster.schemas.refused import VenueIdentity
from k2_dagster.schemas.topics import INSTRUMENTS_DATASET

_DEFINITION, _WITHDRAWAL = INSTRUMENTS.kinds


@dataclass(frozen=True, slots=True)
class AsOf:
    """When a list was received (Unix nanoseconds), and the venue's time in it, if it told one (Unix microseconds)."""

    nanos: int
    told_micros: int | None


def news_rows(exchange: str, found: Changes, as_of: AsOf) -> Iterator[pa.RecordBatch]:
    """New and changed definitions of a list, then those that are gone. Raises as `definition_rows`."""
    for kind, definitions in ((_DEFINITION, found.defined), (_WITHDRAWAL, found.withdrawn)):
        if definitions:
            yield definition_rows(exchange, kind, definitions, as_of)


def definition_rows(exchange: str, kind: str, definitions: Sequence[Definition], as_of: AsOf) -> pa.RecordBatch:
    """Definitions in wire form. They are as of the venue's time where it told one, else of the receiver's. Raises
    CaptureInvalid, and as Arrow does, for values that do not fit."""
    received = np.full(len(definitions), as_of.nanos, np.int64)
    if as_of.told_micros is None:
        said = {**times("exchange", received), TIME_SOURCE_FIELD: RECEIVER_CLOCK}
    else:
        said = {"exchange_timestamp": timestamps([as_of.told_micros] * len(definitions))}
    fixed = {"exchange": exchange, "stream": STREAM, "kind": kind, "symbol": [one["symbol"] for one in definitions]}
    own = {**times("receive", received), **said, **own_columns(definitions)}
    return wire_batch(INSTRUMENTS_DATASET, len(definitions), {**fixed, **own})


def refusal_of(one: BadItem) -> tuple[str, VenueIdentity]:
    """Why an item is refused, and what is known of it."""
    return f"{STREAM}: {one.reason}", VenueIdentity(stream=STREAM, kind=_DEFINITION, symbol=one.symbol)
