"""How long to wait before the next try, so that many clients of a venue that went away do not come back as one."""

from dataclasses import dataclass

import httpx

# The part of a delay that is left to chance.
JITTER_SHARE = 0.5
# Too many requests, and banned for having gone on. The venue says how long (Binance: two minutes to three days);
# without that a minute, in which its limits are counted, and an hour at most, in case somebody mends it.
BUSY_STATUSES = (429, 418)
BUSY_SECONDS = 60.0
MOST_BUSY_SECONDS = 3_600.0


@dataclass(frozen=True)
class Backoff:
    """Doubles from `least_seconds` to `most_seconds`."""

    least_seconds: float
    most_seconds: float

    def delay_seconds(self, tries: int, chance: float) -> float:
        """The wait after `tries` failures in a row (from 1); `chance` is uniform in 0..1. Between half of what is due
        and all of it."""
        # The exponent is bounded, or a night without a venue would overflow it
        due = min(self.most_seconds, self.least_seconds * 2.0 ** min(tries - 1, 32))
        return due * (1.0 - JITTER_SHARE * chance)


def pause_seconds(error: Exception) -> float:
    """How long to leave the venue alone after this: 0, or what it asks of those that came too often."""
    if not isinstance(error, httpx.HTTPStatusError) or error.response.status_code not in BUSY_STATUSES:
        return 0.0
    asked = error.response.headers.get("Retry-After", "")
    return min(float(asked), MOST_BUSY_SECONDS) if asked.isdecimal() else BUSY_SECONDS
