"""How long to wait before the next try, so that many clients of a venue that went away do not come back as one."""

from dataclasses import dataclass

# The part of a delay that is left to chance.
JITTER_SHARE = 0.5


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
