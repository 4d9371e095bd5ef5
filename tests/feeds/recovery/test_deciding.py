"""Which gaps are asked for, when again, and when they are given up: never for ever, never forgotten."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.feeds.live.backoff import Backoff
from k2_dagster.feeds.recovery.deciding import (
    MAX_AUTOMATIC_MESSAGES,
    Ask,
    Expire,
    Leave,
    Terms,
    Wait,
    cannot_ask,
    chunks,
    decide,
    is_served,
    request_id,
    trail_of,
)
from k2_dagster.state.gap_states import GAP_STATES, next_state

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TERMS = Terms()
GAP: dict[str, Any] = {
    "id": 1, "exchange": "x", "dataset": "ticks", "stream": "trade", "numbering": "venue", "state": "open",
    "level": "page", "cause": "unknown", "missing": 20, "first_sequence": 21, "last_sequence": 40, "topic_epoch": 1,
    "kafka_partition": 0, "opened_offset": 7,
}  # fmt: skip


def event(name: str, attempt: int | None = None, at: datetime = NOW, **values: Any) -> dict[str, Any]:
    return {"event": name, "attempt": attempt, "at": at, "note": "why", "due": None, "by": "me", **values}


def decided(gap: dict[str, Any], *events: dict[str, Any], now: datetime = NOW, halted: bool = False) -> Any:
    return decide(gap, trail_of(events), now, halted=halted, terms=TERMS)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"level": "warn"}, "below the level"),
        ({"missing": MAX_AUTOMATIC_MESSAGES + 1, "level": "halt"}, "a person decides"),
        ({"numbering": "publisher"}, "the venue does not know them"),
        ({"cause": "quarantined"}, "in quarantine"),
        ({"state": "filled"}, "it is filled"),
        ({"state": "expired"}, "it is expired"),
        ({"state": "accepted"}, "it is accepted"),
    ],
)
def test_what_is_not_asked_for_says_why(values: dict[str, Any], reason: str) -> None:
    found = decided({**GAP, **values})
    assert isinstance(found, Leave)
    assert reason in found.reason


def test_a_gap_that_pages_is_asked_for_and_a_critical_one_once_its_halt_is_acknowledged() -> None:
    assert decided(GAP) == decided({**GAP, "level": "halt", "missing": 500}) == Ask(1)
    found = decided({**GAP, "level": "halt", "missing": 500}, halted=True)
    assert isinstance(found, Leave)
    assert "acknowledge" in found.reason


@pytest.mark.parametrize("state", [one for one in GAP_STATES if one not in ("filled", "accepted")])
def test_a_person_may_wish_what_is_not_asked_for_by_itself(state: str) -> None:
    assert cannot_ask({**GAP, "state": state, "level": "warn", "missing": 10**6}, halted=False) == ""
    assert "acknowledge" in cannot_ask({**GAP, "state": state}, halted=True)


def test_a_failure_is_tried_again_after_a_while_that_the_venue_may_lengthen() -> None:
    gap = {**GAP, "state": "requested"}
    failed = [event("request", 1), event("fail", 1)]
    wait = decided(gap, *failed)
    assert isinstance(wait, Wait)
    assert timedelta(seconds=7.5) <= wait.until - NOW <= timedelta(seconds=15)
    assert decided(gap, *failed, now=wait.until) == Ask(2)
    due = NOW + timedelta(hours=1)
    assert decided(gap, event("request", 1), event("fail", 1, due=due)) == Wait(due)


def test_what_the_source_cannot_give_is_given_up_at_once() -> None:
    gap = {**GAP, "state": "requested"}
    assert decided(gap, event("request", 1), event("refuse", 1)) == Expire("why")


def test_what_was_published_and_does_not_land_is_asked_for_again_but_not_behind_a_halt() -> None:
    gap = {**GAP, "state": "requested"}
    published = [event("request", 1), event("recover", 1)]
    late = NOW + timedelta(seconds=TERMS.landing_seconds)
    assert decided(gap, *published) == Wait(late)
    assert decided(gap, *published, now=late) == Ask(2)
    assert isinstance(decided(gap, *published, now=late, halted=True), Leave)


def test_a_request_that_nobody_serves_is_made_again() -> None:
    gap = {**GAP, "state": "requested"}
    late = NOW + timedelta(seconds=TERMS.unserved_seconds)
    assert decided(gap, event("request", 1)) == Wait(late)
    assert decided(gap, event("request", 1), now=late) == Ask(2)


def test_after_an_expiry_attempts_are_counted_anew_and_their_numbers_go_on() -> None:
    events = [event("request", 1), event("refuse", 1), event("expire", 1), event("request", 2)]
    trail = trail_of(events)
    assert (trail.attempts, trail.tries, trail.outcome) == (2, 1, None)
    assert (is_served(events, 1), is_served(events, 2)) == (True, False)


def test_a_late_word_of_an_earlier_attempt_does_not_end_the_one_under_way() -> None:
    trail = trail_of([event("request", 1), event("request", 2), event("fail", 1)])
    assert (trail.attempts, trail.outcome) == (2, None)


def test_requests_of_former_versions_are_left_alone() -> None:
    assert isinstance(decided({**GAP, "state": "requested"}, event("request")), Leave)


def test_an_identity_is_of_a_gap_and_an_attempt() -> None:
    assert request_id(GAP, 1) == request_id({**GAP, "state": "expired", "id": 9}, 1)
    others = [{**GAP, "first_sequence": 22}, {**GAP, "topic_epoch": 2}, {**GAP, "opened_offset": 8}]
    assert len({request_id(GAP, 1), request_id(GAP, 2), *(request_id(one, 1) for one in others)}) == 5


@given(
    outcomes=st.lists(st.sampled_from(["fail", "recover", "refuse", "unserved"]), max_size=30),
    most=st.integers(1, 6),
    dues=st.lists(st.integers(0, 10_000), max_size=30),
)
def test_whatever_happens_the_end_comes_and_no_attempt_is_early(
    outcomes: list[str], most: int, dues: list[int]
) -> None:
    """The ledger's rules played forward: a gap that nothing fills is asked for at most so often, each attempt once and
    not before its time, and is given up in the end."""
    terms = Terms(max_attempts=most, backoff=Backoff(10.0, 100.0), landing_seconds=50.0, unserved_seconds=70.0)
    gap, events, now, asked = {**GAP}, list[dict[str, Any]](), NOW, list[int]()
    for _ in range(200):
        decision = decide(gap, trail_of(events), now, halted=False, terms=terms)
        if isinstance(decision, Wait):
            assert decision.until > now
            now = decision.until
        elif isinstance(decision, Ask):
            asked.append(decision.attempt)
            if events and events[-1]["due"]:
                assert now >= events[-1]["due"]
            events.append(event("request", decision.attempt, now))
            gap["state"] = next_state(gap["state"], "request")
            place = len(asked) - 1
            outcome = outcomes[place] if place < len(outcomes) else "fail"
            due = now + timedelta(seconds=dues[place]) if outcome == "fail" and place < len(dues) else None
            if outcome != "unserved":
                events.append(event(outcome, decision.attempt, now, due=due))
        else:
            assert isinstance(decision, Expire)
            break
    else:
        pytest.fail("it was never given up")
    assert asked == list(range(1, len(asked) + 1))
    assert 1 <= len(asked) <= most
    refused_at = outcomes.index("refuse") + 1 if "refuse" in outcomes[:most] else most
    assert len(asked) == min(most, refused_at)


@given(first=st.integers(0, 10**6), span=st.integers(0, 10_000), size=st.integers(1, 3_000))
def test_chunks_tile_a_range(first: int, span: int, size: int) -> None:
    found = list(chunks(first, first + span, size))
    assert found[0][0] == first
    assert found[-1][1] == first + span
    assert all(low <= high < low + size for low, high in found)
    assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(found))


@given(tries=st.integers(1, 60), gap=st.integers(1, 10**6))
def test_delays_double_up_to_a_bound_and_whoever_decides_finds_the_same(tries: int, gap: int) -> None:
    named = {**GAP, "state": "requested", "opened_offset": gap}
    terms = Terms(max_attempts=100)
    events = [one for attempt in range(1, tries + 1) for one in (event("request", attempt), event("fail", attempt))]
    found = decide(named, trail_of(events), NOW, halted=False, terms=terms)
    assert isinstance(found, Wait)
    due = min(terms.backoff.most_seconds, terms.backoff.least_seconds * 2 ** (tries - 1))
    assert due / 2 <= (found.until - NOW).total_seconds() <= due
    assert found == decide(named, trail_of(events), NOW, halted=False, terms=terms)
