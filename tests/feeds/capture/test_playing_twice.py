"""The same capture played again, whatever happened in between, gives only duplicates, and nobody invents a gap."""

from collections import Counter
from pathlib import Path

import pytest

from k2_dagster.feeds.capture.binance_csv import DEPTH_HEADER, TRADE_HEADER
from k2_dagster.settings import Settings
from k2_dagster.verify.proof import verify
from tests.feeds.landing import Venue

pytestmark = pytest.mark.stack
SECONDS = 1_741_046_400


def _trades(count: int) -> list[bytes]:
    line = b"%d272286,x@trade,trade,%d271969,%d271497,X,%d,0.2312,2,1,True"
    return [line % (*[SECONDS + number] * 3, number) for number in range(1, count + 1)]


def _depth(count: int) -> list[bytes]:
    line = b"%d062959,x@depth@100ms,depthUpdate,%d062507,X,%d,%d,%d,0.5,10"
    return [
        line % (*[SECONDS + number] * 2, 5 * number, 5 * number + 4, side)
        for number in range(1, count + 1)
        for side in (0, 1)
    ]


def _file(path: Path, header: bytes, lines: list[bytes]) -> Path:
    path.write_bytes(header + b"\n" + b"\n".join(lines) + b"\n")
    return path


@pytest.mark.parametrize(
    ("header", "lines", "rows"), [(TRADE_HEADER, _trades(200), 198), (DEPTH_HEADER, _depth(100), 98)]
)
def test_refused_lines_are_duplicates_the_second_time_and_explain_their_numbers(
    settings: Settings, tmp_path: Path, header: bytes, lines: list[bytes], rows: int
) -> None:
    venue = Venue(settings, tmp_path, "binance")
    lines[20], lines[100] = lines[20].replace(b"0.", b"0.123456789"), lines[100].replace(b"0.", b"zero")
    path = _file(tmp_path / "x.csv", header, lines)
    first = venue.play(path)
    assert first.refused == 2
    assert venue.reasons() == {"refused_by_feed": 2}
    assert venue.gaps() == []
    kept = {row["value"] for row in venue.rows("quarantine")}
    assert all(any(lines[place] in value for value in kept) for place in (20, 100))
    second = venue.play(path, speed=10_000.0)
    assert (second.rows, second.refused) == (first.rows, 2)
    assert venue.reasons() == {"refused_by_feed": 2, "duplicate": rows + 2 + first.rows["control"]}
    assert venue.gaps() == []
    assert list(verify(venue.settings, exchanges=[venue.name], all_values=True).findings()) == []


def test_a_capture_that_was_stopped_is_completed_by_playing_it_again(settings: Settings, tmp_path: Path) -> None:
    venue = Venue(settings, tmp_path, "binance")
    path = _file(tmp_path / "x.csv", TRADE_HEADER, _trades(200))
    stopped = venue.play(path, speed=100.0, stop_after=50)  # 2 seconds of it
    assert stopped.stopped
    assert stopped.inputs == stopped.rows["ticks"] < 200
    whole = venue.play(path)
    assert whole.rows["ticks"] == 200
    assert len(venue.rows("ticks")) == 200
    # What the feed handler said at the stop is of that playing alone: it has no number of the file's
    control = venue.rows("control")
    assert Counter(row["state"] for row in control) == {"connected": 1, "disconnected": 2}
    assert venue.reasons() == {"duplicate": stopped.rows["ticks"] + 1}
    assert list(verify(venue.settings, exchanges=[venue.name], all_values=True).findings()) == []


@pytest.mark.captures
def test_a_channel_tells_the_same_whatever_the_speed(settings: Settings, tmp_path: Path, sample_data: Path) -> None:
    venue = Venue(settings, tmp_path, "iex")
    path = sample_data / "iex" / "TOPS16.pcapng.gz"
    first = venue.play(path, speed=1_000.0)
    rows = {name: venue.rows(name) for name in ("ticks", "quotes", "control", "instruments")}
    assert {name: len(found) for name, found in rows.items()} == dict(first.rows)
    kinds = Counter(row["kind"] for row in rows["control"])
    assert kinds == {"connection": 4, "heartbeat": 237, "session": 7}
    venue.play(path)
    assert venue.reasons() == {"duplicate": first.rows.total()}
    order = sorted(rows["control"], key=lambda row: row["publisher_sequence"])
    assert [row["publisher_sequence"] for row in order] == list(range(1, len(order) + 1))
    assert [row["kind"] for row in order[:3]] == ["connection", "connection", "session"]
