"""The coverage ledger in the control database: how gaps go on, sessions, connections, holds, and how much it takes."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, text

from k2_dagster.coverage.reading import one_look, read_received
from k2_dagster.ingest import kernel
from k2_dagster.ingest.ledger import _cover
from k2_dagster.ingest.terms import Terms
from k2_dagster.ingest.tracker import Tracker
from k2_dagster.state.attempts import insert_attempt
from k2_dagster.state.coverage_tables import connections, coverage, resets
from k2_dagster.state.database import Database
from k2_dagster.state.feed_events import ConnectionChanged, SessionBegan
from k2_dagster.state.gap_states import GAP_STATES, GapEvent, GapState, next_state
from k2_dagster.state.gaps import GapFilter, count_missing, open_gaps, read_gap, read_gaps, record_event
from k2_dagster.state.tables import SCHEMA, attempts
from k2_dagster.state.times import from_micros
from k2_dagster.state.tracked import PUBLISHER, VENUE
from tests.state.test_state import GAP, attempt, filled, land

# Each state: after the last number came, a request, giving up, an acceptance.
TRANSITIONS: dict[GapState, tuple[GapState, GapState, GapState, GapState]] = {
    "open": ("filled", "requested", "open", "accepted"),
    "requested": ("filled", "requested", "expired", "accepted"),
    "filled": ("filled", "filled", "filled", "filled"),
    "expired": ("filled", "requested", "expired", "accepted"),
    "accepted": ("accepted", "accepted", "accepted", "accepted"),
}
EVENTS: tuple[GapEvent, ...] = ("fill", "request", "expire", "accept")
MEGABYTE = 1_000_000
SYMBOLS = 5_000
DAY_MICROS = 86_400_000_000


def test_every_state_and_event() -> None:
    assert set(TRANSITIONS) == set(GAP_STATES)
    assert {state: tuple(next_state(state, event) for event in EVENTS) for state in GAP_STATES} == TRANSITIONS


@pytest.mark.parametrize("state", GAP_STATES)
def test_how_an_attempt_ended_changes_no_state(state: GapState) -> None:
    ends: tuple[GapEvent, ...] = ("recover", "fail", "refuse")
    assert {next_state(state, event) for event in ends} == {state}


@pytest.mark.stack
def test_an_event_of_an_attempt_is_on_record_once(database: Database) -> None:
    insert_attempt(database, attempt("a", None, GAP))
    land(database, "a")
    (gap,) = open_gaps(database, "ticks", "x")
    with database.begin() as connection:
        for by in ("one", "two"):
            assert record_event(connection, gap["id"], "request", by=by, note="", attempt=1) == "requested"
        assert record_event(connection, gap["id"], "expire", by="one", note="", attempt=1) == "expired"
        # told again by somebody who was late: nothing is taken back
        assert record_event(connection, gap["id"], "request", by="three", note="", attempt=1) == "expired"
        assert record_event(connection, gap["id"], "request", by="one", note="", attempt=2) == "requested"
        found = read_gap(connection, gap["id"])
    assert found is not None
    told = [(one["event"], one["attempt"], one["by"]) for one in found["events"]]
    assert told == [("request", 1, "one"), ("expire", 1, "one"), ("request", 2, "one")]


@pytest.mark.stack
def test_what_comes_late_fills_a_gap_whatever_was_decided_but_an_acceptance(database: Database) -> None:
    insert_attempt(database, attempt("a", None, GAP))
    land(database, "a")
    (gap,) = open_gaps(database, "ticks", "x")

    def decide(event: GapEvent) -> str | None:
        with database.begin() as connection:
            return record_event(connection, gap["id"], event, by="me", note=event)

    states = [decide(event) for event in ("request", "expire", "request")]
    insert_attempt(database, attempt("b", "a", filled(5, 7), start=10, end=20))
    land(database, "a", "b")
    states.append(open_gaps(database, "ticks", "x")[0]["state"])
    insert_attempt(database, attempt("c", "b", filled(8, 8), start=20, end=30))
    land(database, "a", "b", "c")
    states += [open_gaps(database, "ticks", "x")[0]["state"], decide("accept")]
    assert states == ["requested", "expired", "requested", "requested", "filled", "filled"]
    with database.begin() as connection:
        found = read_gap(connection, gap["id"])
        assert record_event(connection, 999, "accept", by="me", note="") is None
        assert read_gap(connection, 999) is None
    assert found is not None
    assert [(one["event"], one["by"]) for one in found["events"]] == [
        (event, "me") for event in ("request", "expire", "request", "accept")
    ]


@pytest.mark.stack
def test_an_accepted_gap_stays_so_and_is_not_counted(database: Database) -> None:
    other = replace(GAP, symbol="B", opened_offset=20)
    insert_attempt(database, attempt("a", None, GAP, other))
    land(database, "a")
    assert count_missing(database) == {("x", "ticks"): 2}
    with database.begin() as connection:
        (chosen,) = read_gaps(connection, GapFilter(symbol="A"))
        record_event(connection, chosen["id"], "accept", by="me", note="known outage")
    insert_attempt(database, attempt("b", "a", filled(5, 8), start=10, end=20))
    land(database, "a", "b")
    with database.begin() as connection:
        (after,) = read_gaps(connection, GapFilter(symbol="A"))
    assert (after["state"], after["filled"]) == ("accepted", 4)
    assert count_missing(database) == {("x", "ticks"): 1}


@pytest.mark.stack
def test_gaps_are_chosen_by_the_times_around_them(database: Database) -> None:
    times = [(10, 20), (25, 15), (30, 40), (None, 35), (None, None)]
    changes = [
        replace(GAP, opened_offset=at, before_micros=before, after_micros=after)
        for at, (before, after) in enumerate(times)
    ]
    insert_attempt(database, attempt("a", None, *changes))
    land(database, "a")
    with database.begin() as connection:
        found = read_gaps(connection, GapFilter(since=from_micros(22), until=from_micros(30)))
        assert [one["opened_offset"] for one in found] == [1, 3, 4]
        assert [one["opened_offset"] for one in read_gaps(connection, GapFilter(), newest=2)] == [3, 4]


@pytest.mark.stack
def test_an_attempt_of_a_former_version_is_still_folded(database: Database) -> None:
    insert_attempt(database, attempt("a", None, GAP))
    new = ("channel", "before_micros", "after_micros", "seen_ms")
    former = {name: value for name, value in asdict(GAP).items() if name not in new}
    with database.begin() as connection:
        connection.execute(attempts.update().values(ledger=[former]))
    land(database, "a")
    (gap,) = open_gaps(database, "ticks", "x")
    assert (gap["channel"], gap["from_time"], gap["seen_at"], gap["state"]) == ("", None, None, "open")


BEGAN = SessionBegan("channel", "", "7", "one", None, 1, 0, 0, 5, 1_000)
CHANGED = ConnectionChanged("trade", "disconnected", "why", 0, 0, 6, 2_000)


@pytest.mark.stack
def test_sessions_and_connections_are_on_record_once(database: Database) -> None:
    others = (
        replace(BEGAN, channel="8", session="other", kafka_offset=7),
        replace(BEGAN, session="two", kafka_offset=8),
    )
    insert_attempt(database, attempt("a", None, BEGAN, CHANGED))
    insert_attempt(database, attempt("b", "a", *others, start=10, end=20))
    insert_attempt(database, attempt("loser", "a", replace(BEGAN, session="never", kafka_offset=9), start=10, end=20))
    for _ in range(2):
        land(database, "a", "b")
    with database.begin() as connection:
        found = connection.execute(select(resets.c.channel, resets.c.previous_session, resets.c.session)).all()
        states = connection.execute(select(connections.c.state, connections.c.at)).all()
    assert [tuple(one) for one in found] == [("7", None, "one"), ("8", None, "other"), ("7", "one", "two")]
    assert [tuple(one) for one in states] == [("disconnected", from_micros(2_000))]


def day_of_many_symbols() -> Tracker:
    """5,000 symbols in both numberings, 20,000,000 messages of a day in all, not one missing."""
    tracker = Tracker(Terms(grace_messages=20, grace_ms=5_000, horizon_days=7))
    chance = np.random.default_rng(1)
    for name in (VENUE, PUBLISHER):
        numbering = tracker.numberings[name]
        parts = ("trade", "trade", "20260301") if name == VENUE else ("publisher-1",)
        keys = np.array(
            [numbering.key_index((0, *parts, f"SYM{at:04}"), start=kernel.NEVER, sparse=False) for at in range(SYMBOLS)]
        )
        count = chance.integers(2, 8_000, SYMBOLS)
        opened = chance.integers(0, DAY_MICROS // 2, SYMBOLS)
        closed = chance.integers(DAY_MICROS // 2, DAY_MICROS, SYMBOLS)
        first = chance.integers(1, 10**9, SYMBOLS)
        values: dict[str, Any] = {
            "last": first + count, "messages": count, "first": first, "first_micros": 1_772_000_000_000_000 + opened,
            "last_micros": 1_772_000_000_000_000 + closed,
        }  # fmt: skip
        for column, numbers in values.items():
            numbering._columns[column][keys] = numbers
    return tracker


@pytest.mark.stack
def test_a_day_of_5000_symbols_without_gaps_takes_less_than_a_megabyte(database: Database) -> None:
    """While it goes on, and when its sessions are over and kept for good."""
    tracker = day_of_many_symbols()
    insert_attempt(database, replace(attempt("a"), state=tracker.dump()))
    land(database, "a")
    with one_look(database) as connection:
        live = read_received(connection)
    assert live.intervals.num_rows == 2 * SYMBOLS
    assert live.holes.num_rows == 0
    assert database_bytes(database) < MEGABYTE

    covers = [_cover(name, tracker.numberings[name].forget(set(range(SYMBOLS)))) for name in (VENUE, PUBLISHER)]
    insert_attempt(database, replace(attempt("b", "a", *covers, start=10, end=20), state=tracker.dump()))
    land(database, "a", "b")
    insert_attempt(database, replace(attempt("c", "b", start=20, end=30), state=tracker.dump()))
    land(database, "a", "b", "c")
    with one_look(database) as connection:
        after = read_received(connection)
    assert after.intervals.drop_columns(["is_open"]) == live.intervals.drop_columns(["is_open"])
    assert set(after.intervals["is_open"].to_pylist()) == {False}
    assert database_bytes(database) < MEGABYTE


def database_bytes(database: Database) -> int:
    """What the ledger takes on disk, what is deleted and still there left out, as vacuum would."""
    names = (attempts.name, coverage.name, "gaps", "gap_events", "resets", "connections", "holds")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"vacuum full {SCHEMA}.attempts"))
        total = sum(
            connection.execute(text(f"select pg_total_relation_size('{SCHEMA}.{name}')")).scalar_one() for name in names
        )
    return int(total)
