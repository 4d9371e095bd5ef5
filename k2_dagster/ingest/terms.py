"""What a profile says of judging."""

from dataclasses import dataclass

from k2_dagster.schemas.profile_parts import DEFAULT_JUMP_ABOVE
from k2_dagster.schemas.profiles import ExchangeProfile

# Where a message may cover many numbers, these count changes, or are a clock's nanoseconds (10^15: 11 days): so many
# times as far is believed.
SPARSE_TIMES = 1_000_000


@dataclass(frozen=True, slots=True)
class Terms:
    """The grace before a hole is a gap, for how long a closed session is remembered, and how far beyond the last number
    one is believed at once."""

    grace_messages: int
    grace_ms: int
    horizon_days: int
    jump_above: int = DEFAULT_JUMP_ABOVE

    def believed(self, *, sparse: bool) -> int:
        """How far beyond the last number one is believed at once."""
        return self.jump_above * SPARSE_TIMES if sparse else self.jump_above


def terms_of(profile: ExchangeProfile) -> Terms:
    """Those of an exchange."""
    return Terms(
        grace_messages=profile.gap_grace_messages,
        grace_ms=int(profile.gap_grace_seconds * 1000),
        horizon_days=profile.closed_session_days,
        jump_above=profile.jump_above,
    )
