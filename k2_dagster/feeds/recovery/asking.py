"""Makes requests for the gaps of the ledger, and gives up what cannot be had.

The ledger is what is to be done, the topic is how it is told. For each attempt:

1. The request is published, and Kafka has acknowledged it.
2. The ledger says `requested`, with the attempt.

Killed between the two, whoever comes next publishes the same request again (its id is the gap's and the attempt's): a
worker that has served it skips it. A gap without a request stays `open` and is found again: never none.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from k2_dagster.errors import QueryRefused
from k2_dagster.feeds.recovery.deciding import Ask, Decision, Expire, Terms, cannot_ask, decide, request_id, trail_of
from k2_dagster.feeds.recovery.requests import request_rows
from k2_dagster.feeds.recovery.sending import Sender
from k2_dagster.observability.points import reached
from k2_dagster.state.database import Database
from k2_dagster.state.gaps import read_gap, record_event
from k2_dagster.state.recoveries import halted_places, is_halted, recoverable_gaps

logger = logging.getLogger(__name__)

BY_ITSELF = "recovery"
# Requests made in one round; the rest is asked for in the next. Each is an answer of the venue's or more.
MOST_REQUESTS = 200


def ask_round(database: Database, sender: Sender, exchange: str, terms: Terms) -> tuple[int, int]:
    """Ask for what is due, and give up what cannot be had. Returns how many of each.

    Raises like Sender and Database; what was not recorded is found again.
    """
    now = datetime.now(UTC)
    with database.begin() as connection:
        halted = halted_places(connection, exchange)
        found = [
            (gap, decision)
            for gap in recoverable_gaps(connection, exchange)
            if isinstance(decision := _decision(gap, halted, now, terms), Ask | Expire)
        ]
    asks = [(gap, decision.attempt) for gap, decision in found if isinstance(decision, Ask)][:MOST_REQUESTS]
    reason = "by its level"
    for gap, attempt in asks:
        sender.request(request_rows(gap, attempt, by=BY_ITSELF, reason=reason))
    if asks:
        sender.flush()
        reached("recovery.asked")
    for gap, attempt in asks:
        _record(database, gap, attempt, by=BY_ITSELF, reason=reason if attempt == 1 else "again")
    expired = [(gap, decision) for gap, decision in found if isinstance(decision, Expire)]
    for gap, decision in expired:
        give_up(database, gap, decision.reason)
    return len(asks), len(expired)


def ask_for(database: Database, sender: Sender, gap: Mapping[str, Any], *, by: str, reason: str) -> int:
    """Ask for a gap (with its `events`) because somebody wishes it; returns the attempt. Raises as `ask_round`, and
    QueryRefused when it cannot be had that way, with why."""
    with database.begin() as connection:
        halted = halted_places(connection, gap["exchange"])
    why_not = cannot_ask(gap, halted=is_halted(gap, halted))
    if why_not:
        raise QueryRefused(f"gap {gap['id']} cannot be asked for: {why_not}", advice=f"`k2 gaps show {gap['id']}`")
    attempt = trail_of(gap["events"]).attempts + 1
    sender.request(request_rows(gap, attempt, by=by, reason=reason))
    sender.flush()
    _record(database, gap, attempt, by=by, reason=reason)
    return attempt


def give_up_if_due(database: Database, gap_id: int, terms: Terms) -> bool:
    """After an attempt: give the gap up now if it is to be. Returns whether it was."""
    with database.begin() as connection:
        gap = read_gap(connection, gap_id)
    if gap is None:
        return False
    decision = _decision(gap, frozenset(), datetime.now(UTC), terms)
    if isinstance(decision, Expire):
        give_up(database, gap, decision.reason)
    return isinstance(decision, Expire)


def give_up(database: Database, gap: Mapping[str, Any], reason: str) -> None:
    """Put on record that the numbers are not asked for any more."""
    with database.begin() as connection:
        attempt = trail_of(gap["events"]).attempts
        record_event(connection, gap["id"], "expire", by=BY_ITSELF, note=reason, attempt=attempt)
    logger.error(
        "a gap is given up", extra={"gap": gap["id"], "exchange": gap["exchange"], "symbol": gap["symbol"],
                                    "first": gap["first_sequence"], "last": gap["last_sequence"], "reason": reason},
    )  # fmt: skip


def _decision(gap: Mapping[str, Any], halted: Any, now: datetime, terms: Terms) -> Decision:
    return decide(gap, trail_of(gap["events"]), now, halted=is_halted(gap, halted), terms=terms)


def _record(database: Database, gap: Mapping[str, Any], attempt: int, *, by: str, reason: str) -> None:
    with database.begin() as connection:
        record_event(connection, gap["id"], "request", by=by, note=reason, attempt=attempt)
    logger.info("a gap is asked for", extra={"gap": gap["id"], "request": request_id(gap, attempt)})
