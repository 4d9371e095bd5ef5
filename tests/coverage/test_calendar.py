"""When an exchange is closed: weekends, holidays, hours, daylight saving, and what the library does not know."""

from datetime import UTC, date, datetime
from typing import Any

import exchange_calendars
import pytest

from k2_dagster.coverage.calendar import closed_spans, closing_of
from k2_dagster.coverage.spans import Span
from k2_dagster.schemas.calendars import CALENDARS, DAYS_OF, WITHOUT_DAYS
from k2_dagster.schemas.profiles import ExchangeProfile
from k2_dagster.state.times import from_micros, to_micros
from tests.ingest.helpers import profile


def exchange(calendar: str, **hours: Any) -> ExchangeProfile:
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


def test_it_is_told_where_the_days_are_not_known() -> None:
    week = span("2026-03-06", "2026-03-10")
    assert "there is no calendar of XCME" in closing_of(exchange("XCME"), week).doubt
    assert "the calendar of XNYS ends" in closing_of(exchange("XNYS"), span("2090-01-01", "2090-01-03")).doubt
    for known in (
        exchange("XNYS"),
        exchange("24/7"),
        exchange("XCME", days_of="CMES"),
        exchange("XKUW", weekdays=("sun",)),
    ):
        assert closing_of(known, week).doubt == ""


def test_a_profile_may_say_whose_days_they_are() -> None:
    # Good Friday, 3 April 2026: no shares are traded in London
    london = exchange("IFEU", days_of="XLON", timezone="Europe/London")
    assert told(closed_spans(london, span("2026-04-02 12:00", "2026-04-03 12:00"))) == [("04-02 23:00", "04-03 12:00")]


def test_a_profile_may_say_its_days_itself() -> None:
    kuwait = exchange(
        "XKUW", weekdays=("sun", "mon", "tue", "wed", "thu"), holidays=(date(2026, 3, 3),), timezone="UTC"
    )
    assert told(closed_spans(kuwait, span("2026-03-02", "2026-03-09"))) == [
        ("03-03 00:00", "03-04 00:00"),
        ("03-06 00:00", "03-08 00:00"),
    ]
    # Also beside a calendar
    closed = closed_spans(exchange("XNYS", holidays=(date(2026, 3, 5),)), span("2026-03-05 12:00", "2026-03-06 12:00"))
    assert told(closed) == [("03-05 12:00", "03-06 05:00")]


def test_the_calendars_without_days_are_those_that_the_library_has_not() -> None:
    known = set(exchange_calendars.get_calendar_names())
    cannot_be_built = {"XBSE", "XTAE"}
    assert (CALENDARS - known) | cannot_be_built == WITHOUT_DAYS
    for code in cannot_be_built:
        assert f"there is no calendar of {code}" in closing_of(exchange(code), span("2026-03-02", "2026-03-09")).doubt
    assert known >= DAYS_OF


@pytest.mark.parametrize("code", sorted(DAYS_OF))
def test_every_calendar_with_days_can_be_read(code: str) -> None:
    assert closing_of(exchange(code), span("2026-03-02", "2026-03-09")).doubt == ""
