"""Keeps an exchange's definitions up to date: takes a venue's lists and publishes what is news of them."""

import logging
from collections.abc import Callable

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.listings.changes import Known, changes
from k2_dagster.feeds.capture.listings.listing import Listing
from k2_dagster.feeds.capture.listings.told import AsOf, news_rows, refusal_of
from k2_dagster.feeds.live.listings.fetching import ListingFetcher
from k2_dagster.feeds.live.report import DefinitionsReport
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.schemas.control import NO_SYMBOL
from k2_dagster.schemas.refused import Refused
from k2_dagster.schemas.topics import INSTRUMENTS_DATASET

LOG = logging.getLogger(__name__)


class Definitions:
    """Used by the thread that publishes. Market data never waits for it: what cannot be had is told in the report and
    tried again. `record` is given what the venue answered, and when (Unix nanoseconds), before it is judged."""

    def __init__(
        self,
        fetcher: ListingFetcher,
        publisher: Publisher,
        exchange: str,
        report: DefinitionsReport,
        record: Callable[[int, str, bytes], object],
    ) -> None:
        self._fetcher = fetcher
        self._publisher = publisher
        self._exchange = exchange
        self._report = report
        self._record = record
        self._known = Known()

    def look(self) -> None:
        """Record and publish what has come since. Raises what Publisher and Recording raise."""
        answer = self._fetcher.taken()
        if answer is None:
            return
        if answer.body:
            self._record(answer.nanos, self._fetcher.url, answer.body)
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
        for rows in news_rows(self._exchange, found, AsOf(nanos, listing.told_micros)):
            self._publisher.publish(INSTRUMENTS_DATASET, rows)
        for one in found.refused:
            reason, identity = refusal_of(one)
            refused = Refused(reason, identity, source=self._fetcher.url)
            self._publisher.refuse(INSTRUMENTS_DATASET, one.symbol or NO_SYMBOL, one.raw, refused)
        self._report.published += len(found.defined)
        self._report.withdrawn += len(found.withdrawn)
        self._report.refused += len(found.refused)
