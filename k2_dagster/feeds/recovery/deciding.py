"""Whether the numbers of a gap are asked for, when again, and when they are given up. Pure.

open       of a level that asks by itself, or by somebody's wish: ask
requested  the attempt failed: ask again after a while that doubles, or when the venue says; MAX_ATTEMPTS times
           the attempt published everything, and it did not land for long: ask again
           the source cannot give them: give up
filled, accepted, expired: nothing. Who wants an expired gap asked for again says so (`k2 gaps request`)
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from k2_dagster.feeds.live.backoff import Backoff

# Failures of a venue are minutes, seldom an hour: 15 s doubled seven times ends after half an hour.
MAX_ATTEMPTS = 8
BACKOFF = Backoff(least_seconds=15.0, most_seconds=1_800.0)
# Published messages land with the next drain. After this long something else is wrong: they were refused, or ingest
# stands still; asking again finds out.
LANDING_SECONDS = 900.0
# A request that no worker has served for so long was lost with its topic, or passed over: it is made again.
UNSERVED_SECONDS = 3_600.0
# More missing messages than this are not asked for without a person's wish: it is an outage that somebody looks at, and
# would keep the venue's limits busy.
MAX_AUTOMATIC_MESSAGES = 10_000

Outcome = Literal["recover", "fail", "refuse"]
_OUTCOMES = ("recover", "fail", "refuse")
_ENDS = ("expire", "accept")


@dataclass(frozen=True, slots=True)
class Terms:
    """How long and how often. The defaults are the constants above."""

    max_attempts: int = MAX_ATTEMPTS
    backoff: Backoff = BACKOFF
    landing_seconds: float = LANDING_SECONDS
    unserved_seconds: float = UNSERVED_SECONDS
    max_automatic_messages: int = MAX_AUTOMATIC_MESSAGES


@dataclass(frozen=True, slots=True)
class Trail:
    """What was tried for a gap. `attempts` counts all; `tries` those since it was last given up. `outcome` is the last
    attempt's, None while it is under way; `at` when it ended (or, under way, was asked for)."""

    attempts: int
    tries: int
    outcome: Outcome | None
    note: str
    at: datetime | None
    due: datetime | None


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask for the numbers: the attempt of this number, from 1."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before this time."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Expire:
    """Give up, for this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing is asked by itself, for this reason."""

    reason: str


Decision = Ask | Wait | Expire | Leave


def trail_of(events: Sequence[Mapping[str, Any]]) -> Trail:
    """From the events of a gap, oldest first."""
    attempts, tries, ended = 0, 0, set[int]()
    last: Mapping[str, Any] | None = None
    for one in events:
        if one["event"] in _ENDS:
            tries, last = 0, None
        elif one["attempt"] is None:
            continue
        elif one["event"] == "request" and one["attempt"] > attempts:
            attempts, tries, last = one["attempt"], tries + 1, one
        elif one["event"] in _OUTCOMES:
            ended.add(one["attempt"])
            if one["attempt"] == attempts:
                last = one
    if last is None:
        return Trail(attempts, tries, None, "", None, None)
    is_over = last["event"] in _OUTCOMES
    return Trail(attempts, tries, last["event"] if is_over else None, last["note"], last["at"], last["due"])


def is_served(events: Sequence[Mapping[str, Any]], attempt: int) -> bool:
    """Whether this attempt, or a later one, has come to an end."""
    return any(one["event"] in _OUTCOMES and (one["attempt"] or 0) >= attempt for one in events)


def decide(gap: Mapping[str, Any], trail: Trail, now: datetime, *, halted: bool, terms: Terms) -> Decision:
    """What to do about a gap (a row of `k2.gaps`) now. `halted`: its partition is not read on."""
    if gap["state"] == "open":
        reason = _left_alone(gap, halted=halted, terms=terms)
        return Leave(reason) if reason else Ask(trail.attempts + 1)
    if gap["state"] != "requested":
        return Leave(f"it is {gap['state']}")
    if trail.at is None:  # requested by other means than an attempt: by hand, or before there were any
        return Leave("it was requested by other means")
    if trail.outcome == "refuse":
        return Expire(trail.note)
    if trail.outcome is None:
        return _after(trail, now, terms.unserved_seconds, terms, "no recovery worker served the request")
    if trail.outcome == "recover" and halted:
        return Leave("everything was published, and waits behind the halt of its partition")
    if trail.outcome == "recover":
        return _after(trail, now, terms.landing_seconds, terms, "everything was published, and did not land")
    return _after(trail, now, _delay_seconds(gap, trail, terms), terms, trail.note)


def cannot_ask(gap: Mapping[str, Any], *, halted: bool) -> str:
    """Why the numbers cannot be asked for, whoever wishes it; empty when they can."""
    if gap["state"] in ("filled", "accepted"):
        return f"it is {gap['state']}"
    if gap["numbering"] == "publisher":
        return "the publisher's numbers are missing: the venue does not know them"
    if gap["cause"] == "quarantined":
        return "what did not come is in quarantine: reprocess it"
    if halted:
        return "its partition is halted, and nothing that comes would land: `k2 breaker acknowledge` first"
    return ""


def chunks(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `size` numbers that together are `first`..`last`, in order."""
    for low in range(first, last + 1, size):
        yield low, min(last, low + size - 1)


def request_id(gap: Mapping[str, Any], attempt: int) -> str:
    """Of a gap and an attempt: whoever asks, and however often, it is the same."""
    place = f"{gap['topic_epoch']}.{gap['kafka_partition']}.{gap['opened_offset']}"
    return f"{gap['exchange']}/{gap['dataset']}/{place}/{gap['numbering']}/{gap['first_sequence']}/{attempt}"


def _left_alone(gap: Mapping[str, Any], *, halted: bool, terms: Terms) -> str:
    reason = cannot_ask(gap, halted=halted)
    if not reason and gap["level"] == "warn":
        reason = "it is below the level that asks by itself"
    if not reason and gap["missing"] > terms.max_automatic_messages:
        reason = f"more than {terms.max_automatic_messages:,} messages are missing: a person decides"
    return reason


def _after(trail: Trail, now: datetime, seconds: float, terms: Terms, why: str) -> Decision:
    assert trail.at is not None
    is_last = trail.tries >= terms.max_attempts
    if is_last and trail.outcome == "fail":
        return Expire(f"{trail.tries} attempts failed, the last one: {why}")
    until = trail.at + timedelta(seconds=seconds)
    if trail.due is not None:
        until = max(until, trail.due)
    if now < until:
        return Wait(until)
    return Expire(f"{trail.tries} attempts, the last one: {why}") if is_last else Ask(trail.attempts + 1)


def _delay_seconds(gap: Mapping[str, Any], trail: Trail, terms: Terms) -> float:
    """The chance is the gap's and the attempt's own, so that whoever decides finds the same time."""
    digest = hashlib.blake2b(request_id(gap, trail.attempts).encode(), digest_size=4).digest()
    return terms.backoff.delay_seconds(max(1, trail.tries), int.from_bytes(digest) / 2**32)
