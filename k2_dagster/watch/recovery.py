"""What is wrong with recovery, out of the control database, for whoever tells of it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from k2_dagster.alerts.recovery import Lost, Trouble, Unserved
from k2_dagster.feeds.recovery.deciding import Ask, Terms, decide, trail_of
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.state.database import Database
from k2_dagster.state.gaps import GapFilter, read_gaps
from k2_dagster.state.recoveries import halted_places, is_halted, recoverable_gaps, with_events

# A worker asks within seconds and serves within minutes, unless the venue wants to be left alone.
UNSERVED_SECONDS = 600.0
# Given up gaps that are looked at, of each exchange; an incident counts them.
MOST_LOST = 1_000


def recovery_trouble(database: Database, profiles: Profiles) -> Trouble:
    """Of every exchange whose profile says what recovers. Raises DatabaseUnavailable, NotInitialized."""
    now = datetime.now(UTC)
    lost: list[Lost] = []
    unserved: list[Unserved] = []
    with database.begin() as connection:
        for exchange, profile in profiles.exchanges.items():
            if profile.recovery is None:
                continue
            given_up = read_gaps(connection, GapFilter(exchange=exchange, state="expired"), newest=MOST_LOST)
            lost += [_lost(one) for one in with_events(connection, given_up)]
            waits = _waits(connection, exchange, now)
            if waits and max(waits) > UNSERVED_SECONDS:
                unserved.append(Unserved(exchange, len(waits), max(waits)))
    return Trouble(lost, unserved)


def _waits(connection: Connection, exchange: str, now: datetime) -> list[float]:
    """For how many seconds each gap has waited for a worker."""
    halted, out = halted_places(connection, exchange), []
    for gap in recoverable_gaps(connection, exchange):
        trail = trail_of(gap["events"])
        decision = decide(gap, trail, now, halted=is_halted(gap, halted), terms=Terms())
        if gap["state"] == "requested" and trail.at is not None and trail.outcome is None:
            out.append((now - trail.at).total_seconds())
        elif gap["state"] == "open" and isinstance(decision, Ask):
            out.append((now - gap["changed_at"]).total_seconds())
    return out


def _lost(gap: Mapping[str, Any]) -> Lost:
    notes = [one["note"] for one in gap["events"] if one["event"] == "expire"]
    whose = gap["symbol"] if gap["numbering"] != "channel" else f"channel {gap['channel']}"
    numbers = f"{gap['first_sequence']} to {gap['last_sequence']} of {whose}"
    reason = notes[-1] if notes else "no reason is on record"
    return Lost(gap["id"], gap["exchange"], gap["dataset"], gap["level"], numbers, reason)
