"""Serves one request: fetches the numbers, publishes them, puts on record how it ended."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pyarrow as pa

from k2_dagster.coverage.holes import still_missing
from k2_dagster.coverage.reading import one_look
from k2_dagster.errors import TerminalError, VenueUnavailable
from k2_dagster.feeds.recovery.channel import identified, late_rows
from k2_dagster.feeds.recovery.covering import Range, count, left, other, within
from k2_dagster.feeds.recovery.deciding import Outcome, cannot_ask, chunks, is_served, request_id
from k2_dagster.feeds.recovery.requests import CHANNEL, Request, missing_range
from k2_dagster.feeds.recovery.sending import Sender
from k2_dagster.feeds.recovery.source import WAIT_FIELD, MissingRange, Recovered, RecoverySource
from k2_dagster.observability.points import reached
from k2_dagster.schemas.profiles import Domain, ExchangeProfile
from k2_dagster.state.database import Database
from k2_dagster.state.gaps import read_gap, record_event

logger = logging.getLogger(__name__)

# Numbers fetched and published at once: a page of the largest venues, and some hundred kilobytes.
CHUNK_MESSAGES = 1_000
# The longest pause that a venue may ask for. Some ban for days: an attempt later finds out.
MOST_WAIT_SECONDS = 3_600.0
BY = "k2 recover"
FORGOTTEN = "its numbers are not remembered any more (closed_session_days): what comes of them would not land"


@dataclass(frozen=True, slots=True)
class Served:
    """How it ended. `skip`: nothing was to be done, `note` says why; `stop`: asked to stop before the end.
    `wait_seconds`: the venue wants to be left alone for so long."""

    request_id: str
    gap_id: int
    outcome: Outcome | Literal["skip", "stop"]
    published: int = 0
    missing: int = 0
    note: str = ""
    wait_seconds: float = 0.0


@dataclass
class _Tally:
    """Of so many numbers, what a source gave, all of it published."""

    wanted: int
    published: int = 0
    given: int = 0
    exhausted: bool = True
    reasons: dict[str, None] = field(default_factory=dict)


class Server:
    """Serves requests of one exchange, one after another."""

    def __init__(
        self,
        database: Database,
        profile: ExchangeProfile,
        sender: Sender,
        source: RecoverySource,
        stop: threading.Event,
    ) -> None:
        self._database = database
        self._profile = profile
        self._sender = sender
        self._source = source
        self._stop = stop

    def serve(self, request: Request, moved: Callable[[Any], None]) -> Served:
        """The sequence; `moved` records in the same transaction that the request is behind us.

        1. Is there anything to do? The gap is known, not filled, and this attempt has not ended.
        2. Fetch and publish, chunk by chunk, until all was given, the source has no more, or it fails.
        3. Kafka has everything.
        4. How it ended is on record, and the position with it.

        Killed before 4, all of it is done again: what landed by then becomes a duplicate. Raises as Database and Sender
        do, with nothing recorded.
        """
        # 1.
        gap, ranges, why_not = self._wanted(request)
        if gap is None or why_not:
            with self._database.begin() as connection:
                moved(connection)
            return Served(request.request_id, request.gap_id, "skip", note=why_not)
        # 2. and 3.
        served = self._recovered(gap, ranges, request)
        # 4.
        self._record(gap, request, served, moved)
        return served

    def _wanted(self, request: Request) -> tuple[dict[str, Any] | None, list[Range], str]:
        """The gap, what is still missing of it, and why nothing is to be done, if so."""
        with one_look(self._database) as connection:
            gap = read_gap(connection, request.gap_id)
            if gap is None:
                return None, [], f"there is no gap {request.gap_id}"
            whole = [(int(gap["first_sequence"]), int(gap["last_sequence"]))]
            ranges = whole if gap["numbering"] == CHANNEL else still_missing(connection, gap)
        if request_id(gap, request.attempt) != request.request_id:
            return gap, [], f"gap {request.gap_id} is another one: {request_id(gap, request.attempt)}"
        if is_served(gap["events"], request.attempt):
            return gap, [], "this attempt was served before"
        # behind a halt it waits with the rest, and lands after the acknowledgement
        return gap, ranges or [], cannot_ask(gap, halted=False)

    def _recovered(self, gap: Mapping[str, Any], ranges: list[Range], request: Request) -> Served:
        """Publish everything that the source has, and say how that ended."""
        missing, tally = missing_range(gap), _Tally(count(ranges))
        if not ranges:
            return Served(request.request_id, gap["id"], "refuse", 0, missing.count, FORGOTTEN)
        failure: tuple[Outcome, str, float] | None = None
        for first, last in (chunk for one in ranges for chunk in chunks(*one, CHUNK_MESSAGES)):
            if self._stop.is_set():
                return Served(request.request_id, gap["id"], "stop", tally.published, note="asked to stop")
            chunk = replace(missing, first=first, last=last)
            try:
                found = self._source.fetch(chunk)
            except VenueUnavailable as error:
                if self._stop.is_set():
                    continue
                failure = "fail", error.message, float(error.fields.get(WAIT_FIELD) or 0.0)
                break
            except TerminalError as error:
                failure = "refuse", f"{error.message} ({error.advice})" if error.advice else error.message, 0.0
                break
            reached("recovery.fetched")
            self._take(gap, chunk, found, tally)
        self._sender.flush()
        reached("recovery.published")
        return _as_served(request, tally, failure)

    def _take(self, gap: Mapping[str, Any], chunk: MissingRange, found: Recovered, tally: "_Tally") -> None:
        batches = {name: within(rows, chunk.first, chunk.last) for name, rows in found.rows.items()}
        gone = left(chunk.first, chunk.last, list(batches.values()), self._domain(gap))
        if gap["numbering"] != CHANNEL:
            tally.published += self._publish(gap, batches)
        elif not gone or found.exhausted:
            tally.published += self._publish_channel(gap, chunk, batches, gone)
        tally.given += chunk.count - count(gone)
        if gone:
            tally.exhausted &= found.exhausted
            tally.reasons[found.reason] = None

    def _publish(self, gap: Mapping[str, Any], batches: Mapping[str, pa.RecordBatch]) -> int:
        for dataset, rows in batches.items():
            self._sender.recovered(dataset, rows, gap["kafka_partition"])
        return sum(rows.num_rows for rows in batches.values())

    def _publish_channel(
        self, gap: Mapping[str, Any], chunk: MissingRange, batches: Mapping[str, pa.RecordBatch], gone: list[Range]
    ) -> int:
        """The rows, and once Kafka has them, the word that they came."""
        for dataset, rows in batches.items():
            self._sender.recovered(dataset, identified(rows, chunk))
        self._sender.flush()
        came = other(chunk.first, chunk.last, gone)
        if came:
            self._sender.tell(late_rows(gap, came))
        return sum(rows.num_rows for rows in batches.values())

    def _domain(self, gap: Mapping[str, Any]) -> Domain:
        declared = self._profile.streams.get(gap["stream"])
        return Domain.CHANNEL if declared is None or gap["numbering"] == CHANNEL else declared.domain

    def _record(self, gap: Mapping[str, Any], request: Request, served: Served, moved: Callable[[Any], None]) -> None:
        if served.outcome == "skip" or served.outcome == "stop":
            return
        due = datetime.now(UTC) + timedelta(seconds=served.wait_seconds) if served.wait_seconds else None
        with self._database.begin() as connection:
            # whoever published it may have been killed before it was on record
            record_event(
                connection, gap["id"], "request", by=request.requested_by, note=request.reason, attempt=request.attempt
            )
            record_event(
                connection, gap["id"], served.outcome, by=BY, note=served.note, attempt=request.attempt, due=due
            )
            moved(connection)
        reached("recovery.recorded")


def _as_served(request: Request, tally: _Tally, failure: tuple[Outcome, str, float] | None) -> Served:
    left_, share = tally.wanted - tally.given, f"{tally.published:,} messages were published"
    if not left_:
        return Served(request.request_id, request.gap_id, "recover", tally.published, 0, share)
    reason = "; ".join(one for one in tally.reasons if one)
    outcome: Outcome = "refuse" if tally.exhausted else "fail"
    wait = 0.0
    if failure is not None:
        outcome, reason, wait = failure
    if tally.published or failure is None:
        reason = f"{share}, {left_:,} of {tally.wanted:,} numbers were not given: {reason or 'no reason was told'}"
    return Served(
        request.request_id, request.gap_id, outcome, tally.published, left_, reason, min(wait, MOST_WAIT_SECONDS)
    )
