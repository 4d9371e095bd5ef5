"""How busy a simulated exchange is at each second: a pure function of the time of day, the seed and the pattern."""

from datetime import UTC, datetime
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from k2_dagster.schemas.common import MICROS_PER_SECOND
from k2_dagster.schemas.profiles import ExchangeProfile

Pattern = Literal["flat", "bursts", "day"]
PATTERNS: tuple[Pattern, ...] = ("flat", "bursts", "day")

Floats = NDArray[np.float64]
Int64s = NDArray[np.int64]

SECONDS_PER_MINUTE = 60
SECONDS_PER_DAY = 86_400
# Outside trading hours a trickle is left (late prints, auctions), as a share of the mean rate; it also keeps the count
# of messages strictly rising in time, so that it can be inverted.
CLOSED_SHARE = 0.005
# Open and close are this much busier than the middle of the day, and calm down over this many seconds.
OPEN_CLOSE_EXCESS = 4.0
OPEN_CLOSE_DECAY_SECONDS = 900.0
# Round-the-clock markets swing by this share over a day, busiest when Europe and America are both awake.
DAILY_SWING = 0.5
BUSIEST_SECOND = 15 * 3_600
# In each second a burst starts with this probability: it multiplies the rate and fades.
BURST_PROBABILITY = 1 / 45
BURST_EXCESS = 6.0
BURST_DECAY_SECONDS = 3.0
BURST_LENGTH_SECONDS = 15
# Markets of this calendar close for lunch (local time, seconds of the day).
LUNCH_BREAKS = {"XTKS": (11 * 3_600 + 1_800, 12 * 3_600 + 1_800)}
# The grid on which message counts are added up is extended by this much at a time.
GRID_SECONDS = 600


class Schedule:
    """When each message of a run happens: message number -> microseconds since the epoch.

    `rate` is the mean in messages per second: of any second when flat, over bursts, and for "day" over trading hours.
    """

    def __init__(
        self, profile: ExchangeProfile, *, rate: float, pattern: Pattern, start_micros: int, seed: int
    ) -> None:
        self._profile = profile
        self._rate = rate
        self._pattern = pattern
        self._start_micros = start_micros
        self._seed = seed
        self._cumulative: Floats = np.zeros(1)

    def times(self, message_numbers: Int64s) -> Int64s:
        """Event time (UTC microseconds) of each message number (from 0). Never falls."""
        if self._pattern == "flat":
            return self._start_micros + (message_numbers * (MICROS_PER_SECOND / self._rate)).astype(np.int64)
        while len(message_numbers) and self._cumulative[-1] <= message_numbers[-1]:
            self._extend()
        seconds = np.interp(message_numbers, self._cumulative, np.arange(len(self._cumulative)))
        return self._start_micros + (seconds * MICROS_PER_SECOND).astype(np.int64)

    def messages_within(self, seconds: float) -> int:
        """How many messages happen in the first `seconds`."""
        if self._pattern == "flat":
            return int(np.ceil(round(self._rate * seconds, 6)))
        while len(self._cumulative) - 1 < seconds:
            self._extend()
        return int(np.ceil(np.interp(seconds, np.arange(len(self._cumulative)), self._cumulative)))

    def _extend(self) -> None:
        first = len(self._cumulative) - 1
        start_second = self._start_micros // MICROS_PER_SECOND
        seconds = start_second + np.arange(first, first + GRID_SECONDS, dtype=np.int64)
        share = intensity(self._profile, self._pattern, seconds, self._seed)
        more = self._cumulative[-1] + np.cumsum(self._rate * share)
        self._cumulative = np.concatenate([self._cumulative, more])


def intensity(profile: ExchangeProfile, pattern: Pattern, epoch_seconds: Int64s, seed: int) -> Floats:
    """Rate at each second (UTC, since the epoch) as a multiple of the mean rate."""
    if pattern == "flat":
        return np.ones(len(epoch_seconds))
    share = _bursts(epoch_seconds, seed)
    if pattern == "day":
        share = share * _day_shape(profile, epoch_seconds)
    return share


def _bursts(epoch_seconds: Int64s, seed: int) -> Floats:
    ages = np.arange(BURST_LENGTH_SECONDS)
    starts = _uniform(epoch_seconds[:, None] - ages[None, :], seed) < BURST_PROBABILITY
    fading = BURST_EXCESS * np.exp(-ages / BURST_DECAY_SECONDS)
    share: Floats = (1.0 + starts @ fading) / (1.0 + BURST_PROBABILITY * fading.sum())
    return share


def _uniform(values: Int64s, seed: int) -> Floats:
    """A uniform number in [0, 1) that depends on nothing but its arguments (splitmix64's finalizer)."""
    mixed = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    uniform: Floats = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) / float(2**53)
    return uniform


def _day_shape(profile: ExchangeProfile, epoch_seconds: Int64s) -> Floats:
    local = epoch_seconds + _utc_offset_seconds(profile.timezone, int(epoch_seconds[0]))
    second = local % SECONDS_PER_DAY
    if profile.opens is None or profile.closes is None:
        swing: Floats = 1.0 + DAILY_SWING * np.cos(2 * np.pi * (second - BUSIEST_SECOND) / SECONDS_PER_DAY)
        return swing
    opens, closes = _second_of_day(profile.opens), _second_of_day(profile.closes)
    excess = np.exp(-(second - opens) / OPEN_CLOSE_DECAY_SECONDS) + np.exp(
        -(closes - second) / OPEN_CLOSE_DECAY_SECONDS
    )
    lunch_from, lunch_to = LUNCH_BREAKS.get(profile.calendar, (0, 0))
    weekday = (local // SECONDS_PER_DAY + 3) % 7  # day 0 of the epoch was a Thursday
    trading = (second >= opens) & (second < closes) & (weekday < 5)
    trading &= ~((second >= lunch_from) & (second < lunch_to))
    mean = 1.0 + 2 * OPEN_CLOSE_EXCESS * OPEN_CLOSE_DECAY_SECONDS / (closes - opens - (lunch_to - lunch_from))
    with np.errstate(over="ignore"):
        return np.where(trading, (1.0 + OPEN_CLOSE_EXCESS * excess) / mean, CLOSED_SHARE)


def _second_of_day(clock_time: str) -> int:
    hours, minutes = clock_time.split(":")
    return (int(hours) * 60 + int(minutes)) * SECONDS_PER_MINUTE


def _utc_offset_seconds(timezone: str, epoch_second: int) -> int:
    offset = datetime.fromtimestamp(epoch_second, UTC).astimezone(ZoneInfo(timezone)).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())
