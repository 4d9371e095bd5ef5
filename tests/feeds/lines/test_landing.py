"""From two lines that lose packets into the tables: what one of them brought is there, what both lost is on record."""

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from k2_dagster.feeds.late import came_late
from k2_dagster.feeds.lines.receiver import ReceivePlan, receive
from k2_dagster.feeds.mold.messages import decode_messages
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.feeds.recovery.source import MissingRange
from k2_dagster.feeds.retransmission.source import RetransmissionSource
from k2_dagster.feeds.simulator.lines.line import LineFaults
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.gaps import GapFilter, read_gaps
from tests.feeds.landing import Venue
from tests.feeds.lines.exchange import all_messages, free_ports, parameters, serving

pytestmark = pytest.mark.stack
DATASETS = ("ticks", "quotes", "book")
LOSSY = LineFaults(drop=0.05, delay=0.02, delay_seconds=0.02)


def numbers_in(venue: Venue) -> list[int]:
    return sorted(row["sequence"] for dataset in DATASETS for row in venue.rows(dataset) if row["sequence"] is not None)


def gaps_of(venue: Venue) -> list[dict[str, Any]]:
    with closing(Database(venue.settings)) as database, database.begin() as connection:
        return read_gaps(connection, GapFilter(exchange=venue.name))


def test_what_one_line_brought_lands_and_what_both_lost_is_filled_by_retransmission(
    settings: Settings, tmp_path: Path
) -> None:
    venue = Venue(settings, tmp_path, "sim_lines")
    given = parameters(venue.name, seconds=4.0, rate=4_000.0)
    lines = free_ports(2)
    plan = ReceivePlan(venue.name, {"A": lines[0], "B": lines[1]}, seconds=20.0, until_end=True)
    with serving(venue.profiles, given, (lines[0], lines[1]), tmp_path, faults=LOSSY, linger_seconds=300.0) as exchange:
        report = receive(venue.settings, venue.profiles, plan, stop=threading.Event())
        venue.land()
        lost = exchange.lost()
        assert lost, "seed 7 loses some packets on both lines"
        missing = {number for first, last in lost for number in range(first, last + 1)}
        truth = all_messages(venue.profiles, given)
        assert numbers_in(venue) == [number for number in range(1, len(truth) + 1) if number not in missing]
        gaps = gaps_of(venue)
        assert [(one["first_sequence"], one["last_sequence"], one["state"]) for one in gaps] == [
            (first, last, "open") for first, last in lost
        ]
        assert all(one["from_time"] <= one["to_time"] for one in gaps)
        assert (report.missing, report.late) == (len(missing), 0)
        assert {name: one.missing for name, one in report.lines.items()} == {
            name: one.dropped_messages for name, one in exchange.simulation.report.lines.items()
        }

        source = RetransmissionSource(venue.name, exchange.simulation.server_address, "1")
        with Publisher(venue.settings, venue.profiles, venue.name, publisher_session="recovery-1") as publisher:
            for gap in gaps:
                found = source.fetch(_as_missing(gap))
                for dataset, rows in found.rows.items():
                    publisher.publish(dataset, rows, origin="recovered")
                publisher.publish("control", came_late(venue.name, found.rows))
        venue.land()
    assert numbers_in(venue) == list(range(1, len(truth) + 1))
    assert {(one["filled"], one["state"]) for one in gaps_of(venue)} <= {(one["missing"], "filled") for one in gaps}
    assert _rows_of(truth) == {dataset: sorted(_identity(row) for row in venue.rows(dataset)) for dataset in DATASETS}
    assert not venue.reasons()


def _as_missing(gap: dict[str, Any]) -> MissingRange:
    return MissingRange(
        gap["exchange"], "ticks", gap["stream"], gap["session"], "", gap["channel"], gap["first_sequence"],
        gap["last_sequence"],
    )  # fmt: skip


def _rows_of(messages: list[bytes]) -> dict[str, list[tuple[Any, ...]]]:
    decoded = decode_messages(messages)
    return {
        dataset: sorted(
            _identity({**row, "sequence": int(place) + 1})
            for place, row in zip(places, rows.to_pylist(), strict=True)
        )
        for dataset, (places, rows) in decoded.rows.items()
    }  # fmt: skip


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["sequence"], row["symbol"], row["exchange_timestamp"], row["kind"]
