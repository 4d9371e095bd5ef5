"""When an exchange is closed, so that nothing can be missing there: its calendar's days and its profile's hours.

The days are those that the profile tells (`weekdays`, `holidays`), else those of the calendar that it names for them
(`days_of`), else those of its own calendar.
"""

import warnings
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from k2_dagster.coverage.spans import Span, within, without
from k2_dagster.schemas.calendars import ALWAYS_OPEN, WEEKDAYS
from k2_dagster.schemas.profiles import ExchangeProfile
from k2_dagster.state.times import from_micros

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Calendars that a process keeps; an exchange has one.
MAX_CALENDARS = 64


class Closing(NamedTuple):
    """`spans` in which the exchange is closed, oldest first; `doubt` says why that is not all that can be said, in
    words, and is empty where its trading days are known."""

    spans: list[Span]
    doubt: str


def closing_of(profile: ExchangeProfile, whole: Span) -> Closing:
    """When the exchange is closed within `whole`, and how sure that is."""
    return Closing(closed_spans(profile, whole), _doubt(profile, whole))


def _doubt(profile: ExchangeProfile, whole: Span) -> str:
    code = _days_code(profile)
    if code == ALWAYS_OPEN or profile.weekdays:
        return ""
    known = _sessions(code)
    if known is None:
        return (
            f"whether the exchange was closed is not known: there is no calendar of {code}; `days_of` or `weekdays` of "
            "its profile would tell"
        )
    first, last, _ = known
    outside = [day for day in _days(whole, ZoneInfo(profile.timezone)) if not first <= day <= last]
    return f"whether the exchange was closed is not known: the calendar of {code} ends {last}" if outside else ""


def _days_code(profile: ExchangeProfile) -> str:
    return profile.days_of or profile.calendar


def closed_spans(profile: ExchangeProfile, whole: Span) -> list[Span]:
    """Spans within `whole` in which the exchange is closed, oldest first.

    A day is closed when the calendar says so, and the profile's `opens` and `closes` bound an open one. A day that the
    calendar does not reach is open, and so is every day where the library has no calendar of that code: what is not
    known to be closed needs messages.
    """
    if profile.calendar == ALWAYS_OPEN and profile.opens is None:
        return []
    zone = ZoneInfo(profile.timezone)
    opened = [_hours(profile, day, zone) for day in _days(whole, zone) if _is_session(profile, day)]
    return within(whole, without(whole, opened))


def _hours(profile: ExchangeProfile, day: date, zone: ZoneInfo) -> Span:
    if profile.opens is None or profile.closes is None:
        return _micros(day, time(), zone), _micros(day + timedelta(days=1), time(), zone)
    opens, closes = (time.fromisoformat(text) for text in (profile.opens, profile.closes))
    return _micros(day, opens, zone), _micros(day, closes, zone)


def _micros(day: date, clock: time, zone: ZoneInfo) -> int:
    return (datetime.combine(day, clock, zone).astimezone(UTC) - _EPOCH) // _MICROSECOND


def _days(whole: Span, zone: ZoneInfo) -> Iterator[date]:
    """Local days that a span touches."""
    first, last = (from_micros(micros) for micros in whole)
    assert first is not None
    assert last is not None
    day, end = first.astimezone(zone).date(), last.astimezone(zone).date()
    while day <= end:
        yield day
        day += timedelta(days=1)


def _is_session(profile: ExchangeProfile, day: date) -> bool:
    if day in profile.holidays or (profile.weekdays and WEEKDAYS[day.weekday()] not in profile.weekdays):
        return False
    if profile.weekdays:
        return True
    known = _sessions(_days_code(profile))
    if known is None:
        return True
    first, last, days = known
    return not first <= day <= last or day in days


@lru_cache(MAX_CALENDARS)
def _sessions(code: str) -> tuple[date, date, frozenset[date]] | None:
    """First and last day that the calendar reaches, and its trading days; None when there is no such calendar."""
    if code == ALWAYS_OPEN:
        return None
    # Half a second, and only exchanges with a calendar need it
    import exchange_calendars

    if code not in exchange_calendars.get_calendar_names():
        return None
    with warnings.catch_warnings():
        # It uses what the pandas of today deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            calendar = exchange_calendars.get_calendar(code)
        except (ValueError, NotImplementedError):
            # It has some that it cannot build: as good as none
            return None
    days = frozenset(one.date() for one in calendar.sessions)
    return calendar.first_session.date(), calendar.last_session.date(), days
