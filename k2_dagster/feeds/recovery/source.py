"""What a venue's way to give past messages again looks like from here: the port that recovery fills gaps through."""

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from k2_dagster.errors import ConfigurationError

# Names the seconds to wait in the fields of VenueUnavailable.
WAIT_FIELD = "wait_seconds"


@dataclass(frozen=True, slots=True)
class MissingRange:
    """Numbers `first`..`last` (both inclusive) of one session that did not come.

    Of a symbol's own numbers, `symbol` says whose; of a channel that symbols share, `channel` names it and `symbol` is
    empty. The venue's times of the messages around them are None where not known.
    """

    exchange: str
    dataset: str
    stream: str
    session: str
    symbol: str
    channel: str
    first: int
    last: int
    before_micros: int | None = None
    after_micros: int | None = None

    @property
    def count(self) -> int:
        """How many numbers are missing."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a source gave for a range: rows in wire form per dataset, in the order of their numbers and without the
    publisher pair, which the publisher gives. Fewer than asked for is an answer; `exhausted` says that asking again
    will bring no more of them.
    """

    rows: dict[str, pa.RecordBatch]
    exhausted: bool = False
    reason: str = ""


class RecoverySource(Protocol):
    """Gives past messages of one exchange again. `tests/feeds/recovery_sources.py` holds every source to this."""

    def fetch(self, missing: MissingRange) -> Recovered:
        """The messages of a range, in its session. Raises VenueUnavailable (away, busy, or its answer is none:
        ask again later; with the seconds to wait as its field `wait_seconds`, where the venue says them) or a
        TerminalError with its advice: such a range cannot be served (another exchange, stream, channel or numbering, or
        a first number behind the last).
        """

    def close(self) -> None:
        """Give connections back. More than once does no harm."""


def require_range(missing: MissingRange, least: int) -> None:
    """Raises ConfigurationError unless it is a range of numbers from `least` on."""
    if not least <= missing.first <= missing.last:
        raise ConfigurationError(
            f"the range was {missing.first} to {missing.last}",
            advice=f"valid: {least} or more, the last not before the first",
        )
