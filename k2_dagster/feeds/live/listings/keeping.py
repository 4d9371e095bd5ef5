"""Keeps an exchange's definitions up to date: takes a venue's lists and publishes what is news of them."""

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.block import times, timestamps, wire_batch
from k2_dagster.feeds.live.listings.changes import Changes, Known, changes
from k2_dagster.feeds.live.listings.fetching import ListingFetcher
from k2_dagster.feeds.live.listings.listing import BadItem, Definition, Listing, own_columns
from k2_dagster.feeds.live.report import DefinitionsReport
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.schemas.common import RECEIVER_CLOCK, TIME_SOURCE_FIELD
from k2_dagster.schemas.control import NO_SYMBOL
from k2_dagster.schemas.instruments import INSTRUMENTS, STREAM
from k2_dagster.schemas.refused import Refused, VenueIdentity
from k2_dagster.schemas.topics import INSTRUMENTS_DATASET

LOG = logging.getLogger(__name__)


class Definitions:
    """Used by the thread that publishes. Market data never waits for it: what cannot be had is told in the report and
    tried again."""

    def __init__(
        self,
        fetcher: ListingFetcher,
        publisher: Publisher,
        exchange: str,
        report: DefinitionsReport,
    ) -> None:
        self._fetcher = fetcher
        self._publisher = publisher
        self._exchange = exchange
        self._report = report
        self._known = Known()

    def look(self) -> None:
        """Publish what has come since. Raises what Publisher raises."""
        answer = self._fetcher.taken()
        if answer is None:
            return
        failure = answer.failure
        if answer.listing is not None:
            try:
                self._take(answer.listing, answer.nanos)
            except CaptureInvalid as error:
                failure = error.message
        if failure:
            self._report.failures += 1
            self._report.missing = failure
            LOG.warning("no definitions of %s: %s", self._exchange, failure)
            self._fetcher.bad()
        else:
            self._report.missing = ""
            self._fetcher.good()

    def _take(self, listing: Listing, nanos: int) -> None:
        self._known, found = changes(self._known, listing)
        self._report.lists += 1
        self._report.known = len(self._known.definitions)
        self._publish(found, nanos, listing.told_micros)

    def _publish(self, found: Changes, nanos: int, told_micros: int | None) -> None:
        for kind, definitions in (("definition", found.defined), ("withdrawal", found.withdrawn)):
            if definitions:
                rows = definition_rows(self._exchange, kind, definitions, nanos, told_micros)
                self._publisher.publish(INSTRUMENTS_DATASET, rows)
        for one in found.refused:
            self._refuse(one)
        self._report.published += len(found.defined)
        self._report.withdrawn += len(found.withdrawn)
        self._report.refused += len(found.refused)

    def _refuse(self, one: BadItem) -> None:
        identity = VenueIdentity(stream=STREAM, kind=INSTRUMENTS.kinds[0], symbol=one.symbol)
        refused = Refused(f"{STREAM}: {one.reason}", identity, source=self._fetcher.url)
        self._publisher.refuse(INSTRUMENTS_DATASET, one.symbol or NO_SYMBOL, one.raw, refused)


def definition_rows(
    exchange: str, kind: str, definitions: Sequence[Definition], nanos: int, told_micros: int | None
) -> pa.RecordBatch:
    """Definitions in wire form, received at `nanos` (Unix nanoseconds). They are as of the venue's time where it told
    one, else of the receiver's. Raises CaptureInvalid, and as Arrow does, for values that do not fit."""
    own = times("receive", np.full(len(definitions), nanos, np.int64))
    if told_micros is None:
        said = {**times("exchange", np.full(len(definitions), nanos, np.int64)), TIME_SOURCE_FIELD: RECEIVER_CLOCK}
    else:
        said = {"exchange_timestamp": timestamps([told_micros] * len(definitions))}
    fixed = {"exchange": exchange, "stream": STREAM, "kind": kind, "symbol": [one["symbol"] for one in definitions]}
    return wire_batch(INSTRUMENTS_DATASET, len(definitions), {**fixed, **own, **said, **own_columns(definitions)})
