"""What the simulator lost and held back in a channel, in the ledger: gaps with times, filled by what came late."""

import json
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from k2_dagster.coverage.asking import complete
from k2_dagster.feeds.simulator.faults import FaultPlan, parse_fault
from k2_dagster.feeds.simulator.feed import FeedParameters
from k2_dagster.feeds.simulator.simulation import Simulation
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.gaps import GapFilter, read_gaps
from tests.feeds.landing import Venue
from tests.feeds.simulator.simulated import START_MICROS

pytestmark = pytest.mark.stack


def ledger(venue: Venue) -> list[dict[str, Any]]:
    with closing(Database(venue.settings)) as database, database.begin() as connection:
        return read_gaps(connection, GapFilter(exchange=venue.name, dataset="control"))


def test_a_channel_gap_has_its_times_and_is_filled_by_what_comes_late(settings: Settings, tmp_path: Path) -> None:
    venue = Venue(settings, tmp_path, "sim_equity")
    truth_path = tmp_path / "truth.jsonl"
    plan = FaultPlan(
        tuple(parse_fault(text) for text in ("late:30@2s/quotes", "drop:7@6s/quotes", "late:12@9s/quotes"))
    )
    parameters = FeedParameters(venue.name, 20, 1_000.0, 3, START_MICROS, 20.0, plan=plan)
    simulation = Simulation(
        venue.settings, venue.profiles, parameters, flat_out=True, stop=threading.Event(), truth=truth_path
    )
    simulation.run()
    venue.land()
    truth = sorted(
        (json.loads(line) for line in truth_path.read_text().splitlines()), key=lambda one: one["first_sequence"]
    )
    gaps = sorted(ledger(venue), key=lambda one: one["first_sequence"])
    told = [(one["channel"], one["session"], one["first_sequence"], one["last_sequence"]) for one in gaps]
    assert told == [
        tuple(one[name] for name in ("channel", "session", "first_sequence", "last_sequence")) for one in truth
    ]
    assert [(one["filled"], one["state"]) for one in gaps] == [(30, "filled"), (0, "open"), (12, "filled")]
    times = {(row["channel"], row["sequence"]): row["exchange_timestamp"] for row in venue.rows("quotes")}
    for gap in gaps:
        channel = gap["channel"]
        assert gap["from_time"] == times[channel, gap["first_sequence"] - 1]
        assert gap["to_time"] == times[channel, gap["last_sequence"] + 1]

    # The same run again is only duplicates, and says nothing to the ledger
    Simulation(venue.settings, venue.profiles, parameters, flat_out=True, stop=threading.Event()).run()
    venue.land()
    assert sorted(ledger(venue), key=lambda one: one["first_sequence"]) == gaps

    start = datetime.fromtimestamp(START_MICROS // 1_000_000, UTC)
    (open_gap,) = [one for one in gaps if one["state"] == "open"]
    busiest = "AAPL"
    with closing(Database(venue.settings)) as database:
        answers = [
            complete(database, venue.profiles, venue.name, "quote", busiest, low, low + timedelta(milliseconds=20))
            for low in (open_gap["from_time"], start + timedelta(seconds=4))
        ]
    assert [answer.answer for answer in answers] == ["gaps", "complete"]
