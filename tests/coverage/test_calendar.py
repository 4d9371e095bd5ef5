"""When an exchange is closed: weekends, holidays, hours, daylight saving, and what the library does not know."""

from datetime import UTC, datetime

from k2_dagster.coverage.calendar import closed_spans
from k2_dagster.coverage.spans import Span
from k2_dagster.schemas.profiles import ExchangeProfile
from k2_dagster.state.times import from_micros, to_micros
from tests.ingest.helpers import profile


def exchange(calendar: str, **hours: str) -> ExchangeProfile:
    zone = {"timezone": "America/New_York", "calendar": calendar}
    return profile(ticks="dense").model_copy(update=zone | hours)


def span(start: str, end: str) -> Span:
    first, last = (to_micros(datetime.fromisoformat(text).replace(tzinfo=UTC)) for text in (start, end))
    assert first is not None
    assert last is not None
    return first, last


def told(spans: list[Span]) -> list[tuple[str, str]]:
    return [(f"{from_micros(start):%m-%d %H:%M}", f"{from_micros(end):%m-%d %H:%M}") for start, end in spans]


def test_round_the_clock_is_never_closed() -> None:
    assert closed_spans(exchange("24/7"), span("2026-03-01", "2026-04-01")) == []


def test_nights_weekends_and_holidays_are_closed() -> None:
    new_york = exchange("XNYS", opens="09:30", closes="16:00")
    # Friday 3 July 2026 is the holiday of the 4th
    found = closed_spans(new_york, span("2026-07-02 12:00", "2026-07-06 14:00"))
    assert told(found) == [("07-02 12:00", "07-02 13:30"), ("07-02 20:00", "07-06 13:30")]


def test_hours_follow_the_local_clock() -> None:
    new_york = exchange("XNYS", opens="09:30", closes="16:00")
    # daylight saving began on Sunday 8 March 2026
    assert told(closed_spans(new_york, span("2026-03-06", "2026-03-10")))[:3] == [
        ("03-06 00:00", "03-06 14:30"),
        ("03-06 21:00", "03-09 13:30"),
        ("03-09 20:00", "03-10 00:00"),
    ]


def test_without_hours_an_open_day_is_open_all_day() -> None:
    found = closed_spans(exchange("XNYS"), span("2026-03-06 12:00", "2026-03-09 12:00"))
    assert told(found) == [("03-07 05:00", "03-09 04:00")]


def test_what_the_library_does_not_know_is_open() -> None:
    assert closed_spans(exchange("XCME"), span("2026-03-06", "2026-03-10")) == []
    assert closed_spans(exchange("XNYS"), span("2090-01-01", "2090-01-03")) == []
