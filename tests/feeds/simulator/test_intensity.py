from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.feeds.simulator.intensity import PATTERNS, Pattern, Schedule, intensity
from k2_dagster.schemas.profiles import load_profiles

DAY = 86_400
WEDNESDAY = int(datetime(2026, 7, 1, tzinfo=UTC).timestamp())
PROFILES = load_profiles()


def day_of(exchange: str, first_second: int = WEDNESDAY) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return intensity(PROFILES.exchange(exchange), "day", first_second + np.arange(DAY), 1)


def at(clock_time: str) -> slice:
    """Half an hour from a time of day (UTC) on."""
    hours, minutes = clock_time.split(":")
    second = int(hours) * 3600 + int(minutes) * 60
    return slice(second, second + 1_800)


def test_equities_are_busiest_at_open_and_close_and_quiet_outside() -> None:
    shape = day_of("sim_equity")  # New York is four hours behind in July
    opening, noon, closing = (shape[at(time)].mean() for time in ("13:30", "16:30", "19:30"))
    assert opening > 2 * noon
    assert closing > 2 * noon
    assert shape[at("03:00")].mean() < 0.05 * noon
    assert shape[at("13:30").start : at("20:00").start].mean() == pytest.approx(1.0, rel=0.1)


def test_a_lunch_break_is_quiet_and_so_is_the_weekend() -> None:
    shape = day_of("sim_futures")  # Tokyo is nine hours ahead
    assert shape[at("02:35").start : at("03:25").start].mean() < 0.05
    assert shape[at("02:00")].mean() > 0.3
    assert day_of("sim_futures", WEDNESDAY + 3 * DAY).max() < 0.1


def test_round_the_clock_markets_swing_around_their_mean() -> None:
    shape = day_of("sim_crypto")
    assert shape.mean() == pytest.approx(1.0, rel=0.1)
    assert shape[at("15:00")].mean() > 1.5 * shape[at("03:00")].mean()


def test_bursts_are_a_function_of_time_and_seed_alone() -> None:
    profile = PROFILES.exchange("sim_crypto")
    seconds = WEDNESDAY + np.arange(DAY)
    whole = intensity(profile, "bursts", seconds, 1)
    assert np.array_equal(intensity(profile, "bursts", seconds[500:600], 1), whole[500:600])
    assert not np.array_equal(intensity(profile, "bursts", seconds, 2), whole)
    assert whole.mean() == pytest.approx(1.0, rel=0.05)
    assert whole.max() > 3


@settings(max_examples=25)
@given(st.sampled_from(PATTERNS), st.floats(1, 50_000), st.integers(1, 400))
def test_times_rise_and_agree_with_the_count_of_messages(pattern: Pattern, rate: float, seconds: int) -> None:
    start = (WEDNESDAY + 14 * 3600) * 1_000_000
    schedule = Schedule(PROFILES.exchange("sim_equity"), rate=rate, pattern=pattern, start_micros=start, seed=1)
    count = schedule.messages_within(seconds)
    times = schedule.times(np.arange(max(count - 1_000, 0), count + 1))
    assert (np.diff(times) >= 0).all()
    assert times[-1] >= start + seconds * 1_000_000 - 1
    assert count == 0 or times[-2] < start + seconds * 1_000_000
