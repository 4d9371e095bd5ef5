"""From two lines that lose packets into the tables: what one of them brought is there, what both lost is on record."""

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.lines import receiver
from k2_dagster.feeds.lines.receiver import ReceivePlan, receive
from k2_dagster.feeds.mold.messages import decode_messages
from k2_dagster.feeds.mold.packets import Packet, encode_packet
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.feeds.recovery.channel import late_rows
from k2_dagster.feeds.recovery.source import MissingRange
from k2_dagster.feeds.retransmission.source import RetransmissionSource
from k2_dagster.feeds.simulator.lines.line import LineFaults
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.gaps import GapFilter, read_gaps
from tests.feeds.landing import Venue
from tests.feeds.lines.exchange import HOST, all_messages, free_ports, parameters, serving

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
    plan = ReceivePlan(venue.name, {"A": lines[0], "B": lines[1]}, seconds=90.0, until_end=True)
    with serving(venue.profiles, given, (lines[0], lines[1]), tmp_path, faults=LOSSY, linger_seconds=300.0) as exchange:
        report = receive(venue.settings, venue.profiles, plan, stop=threading.Event(), on_listening=exchange.start)
        venue.land()
        lost = exchange.lost()
        assert lost, "seed 7 loses some packets on both lines"
        missing = {number for first, last in lost for number in range(first, last + 1)}
        truth = all_messages(venue.profiles, exchange.parameters)
        assert numbers_in(venue) == [number for number in range(1, len(truth) + 1) if number not in missing]
        gaps = gaps_of(venue)
        # What a busy machine held up for longer than the wait was a gap too, and came late
        assert {one["state"] for one in gaps} <= {"open", "filled"}
        missing_gaps = [one for one in gaps if one["state"] == "open"]
        assert [(one["first_sequence"], one["last_sequence"]) for one in missing_gaps] == lost
        assert all(one["from_time"] <= one["to_time"] for one in gaps)
        assert report.missing == len(missing)
        assert {name: one.missing for name, one in report.lines.items()} == {
            name: one.dropped_messages for name, one in exchange.simulation.report.lines.items()
        }

        source = RetransmissionSource(venue.name, exchange.simulation.server_address, "1")
        with Publisher(venue.settings, venue.profiles, venue.name, publisher_session="recovery-1") as publisher:
            for gap in missing_gaps:
                found = source.fetch(_as_missing(gap))
                for dataset, rows in found.rows.items():
                    publisher.publish(dataset, rows, origin="recovered")
                publisher.publish("control", late_rows(gap, [(gap["first_sequence"], gap["last_sequence"])]))
        venue.land()
    assert numbers_in(venue) == list(range(1, len(truth) + 1))
    assert all((one["filled"], one["state"]) == (one["missing"], "filled") for one in gaps_of(venue))
    assert _rows_of(truth) == {dataset: sorted(_identity(row) for row in venue.rows(dataset)) for dataset in DATASETS}
    assert not venue.reasons()


def test_with_retransmission_nothing_is_missing(settings: Settings, tmp_path: Path) -> None:
    venue = Venue(settings, tmp_path, "sim_lines")
    given = parameters(venue.name, seconds=3.0, rate=4_000.0)
    lines = free_ports(2)
    faults = LineFaults(drop=0.2, delay=0.05, delay_seconds=0.05)
    with serving(
        venue.profiles, given, (lines[0], lines[1]), tmp_path, faults=faults, linger_seconds=300.0
    ) as exchange:
        plan = ReceivePlan(
            venue.name, {"A": lines[0], "B": lines[1]}, server=exchange.simulation.server_address, seconds=90.0,
            until_end=True,
        )  # fmt: skip
        report = receive(venue.settings, venue.profiles, plan, stop=threading.Event(), on_listening=exchange.start)
        lost = sum(last - first + 1 for first, last in exchange.lost())
    venue.land()
    assert lost > 200
    assert numbers_in(venue) == list(range(1, 12_001))
    # On a machine that is too busy some come only after the wait
    assert report.missing == 0
    assert {one["state"] for one in gaps_of(venue)} <= {"filled"}
    assert report.lines["retransmission"].won >= lost
    won = sum(one.won for one in report.lines.values())
    assert won == sum(report.rows[dataset] for dataset in DATASETS) == 12_000


def test_who_comes_late_begins_with_the_books_and_misses_nothing_behind_them(
    settings: Settings, tmp_path: Path
) -> None:
    venue = Venue(settings, tmp_path, "sim_lines")
    given = parameters(venue.name, seconds=6.0, rate=4_000.0)
    lines = free_ports(2)
    with serving(venue.profiles, given, (lines[0], lines[1]), tmp_path, faults=LOSSY, linger_seconds=300.0) as exchange:
        exchange.start()
        until = time.monotonic() + 30
        while exchange.simulation.report.messages < 15_000 and time.monotonic() < until:
            time.sleep(0.05)
        plan = ReceivePlan(
            venue.name, {"A": lines[0], "B": lines[1]}, server=exchange.simulation.server_address, snapshot=True,
            seconds=90.0, until_end=True,
        )  # fmt: skip
        report = receive(venue.settings, venue.profiles, plan, stop=threading.Event())
    venue.land()
    snapshots = [row for row in venue.rows("book") if row["sequence"] is None]
    assert len(snapshots) == report.books == given.symbols
    (valid_at,) = {row["previous_sequence"] for row in snapshots}
    assert 0 < valid_at < 15_000
    assert numbers_in(venue) == list(range(valid_at + 1, 24_001))
    assert (report.missing, venue.reasons()) == (0, {})
    assert {one["state"] for one in gaps_of(venue)} <= {"filled"}


def test_what_cannot_be_read_is_refused_and_counted(settings: Settings, tmp_path: Path) -> None:
    venue = Venue(settings, tmp_path, "sim_lines")
    messages = all_messages(venue.profiles, parameters(venue.name, seconds=0.05, rate=1_000.0))
    good = [Packet("S", 1, tuple(messages[:10])), Packet("S", 11, (b"\xffno row", messages[11]))]
    stop = threading.Event()

    def send(addresses: Mapping[str, tuple[str, int]]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for data in (b"garbage", *(encode_packet(one) for one in good), encode_packet(good[0])[:-1]):
                sender.sendto(data, addresses["A"])

    plan = ReceivePlan(venue.name, {"A": (HOST, 0), "B": (HOST, 0)}, seconds=1.0)
    report = receive(venue.settings, venue.profiles, plan, stop=stop, on_listening=send)
    venue.land()
    assert numbers_in(venue) == [*range(1, 11), 12]
    assert venue.reasons() == {"refused_by_feed": 1}
    assert gaps_of(venue) == []
    figures = report.lines["A"]
    assert (figures.malformed, figures.packets, figures.won, report.refused) == (2, 2, 12, 1)
    assert figures.last_malformed
    told = [row for row in venue.rows("control") if row["kind"] in ("connection", "heartbeat")]
    assert {row["state"] for row in told} == {"connected", "disconnected", None}
    assert any("2 packets malformed" in (row["reason"] or "") for row in told)


def test_lines_that_fall_silent_are_on_record(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "SILENT_SECONDS", 0.3)
    venue = Venue(settings, tmp_path, "sim_lines")

    def send(addresses: Mapping[str, tuple[str, int]]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(encode_packet(Packet("S", 1, (), "heartbeat")), addresses["B"])

    plan = ReceivePlan(venue.name, {"A": (HOST, 0), "B": (HOST, 0)}, seconds=1.5)
    receive(venue.settings, venue.profiles, plan, stop=threading.Event(), on_listening=send)
    venue.land()
    told = [row for row in venue.rows("control") if row["kind"] == "connection" and row["stream"] == "trade"]
    told.sort(key=lambda row: row["kafka_offset"])
    assert [row["state"] for row in told] == ["connected", "disconnected"]
    assert "nothing came on any line" in told[1]["reason"]


def test_streams_that_share_no_channel_cannot_come_on_lines(settings: Settings) -> None:
    plan = ReceivePlan("sim_crypto", {"A": (HOST, 0), "B": (HOST, 0)})
    with pytest.raises(ConfigurationError, match="quote"):
        receive(settings, load_profiles(), plan, stop=threading.Event())


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
