"""What the environment asks of the demo. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from k2_dagster.errors import ConfigurationError

DEFAULT_SECONDS = 90.0
# After the last fault, a kill, a drain and its successor still need their time.
SHORTEST_SECONDS = 30.0
# A feed of days is not a demo, and its topics would fill the disk.
LONGEST_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Options:
    """`seconds` is how long the feed runs; `capture` is played instead of the simulator; `keep` leaves the stack up."""

    seconds: float
    capture: Path | None
    keep: bool


def read_options(environment: Mapping[str, str]) -> Options:
    """From DEMO_SECONDS, CAPTURE, DEMO_KEEP and CI. Raises ConfigurationError with what would be valid."""
    capture = Path(environment["CAPTURE"]).expanduser() if environment.get("CAPTURE") else None
    if capture is not None and not capture.is_file():
        raise ConfigurationError(f"CAPTURE was {str(capture)!r}: there is no such file", advice="see docs/captures.md")
    keep = environment.get("DEMO_KEEP", "") or ("0" if environment.get("CI") else "1")
    if keep not in ("0", "1"):
        raise ConfigurationError(f"DEMO_KEEP was {keep!r}", advice="valid: 1 (the stack stays up) and 0 (it does not)")
    return Options(_seconds(environment.get("DEMO_SECONDS", "")), capture, keep == "1")


def _seconds(given: str) -> float:
    if not given:
        return DEFAULT_SECONDS
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise ConfigurationError(
            f"DEMO_SECONDS was {given!r}",
            advice=f"valid: seconds from {SHORTEST_SECONDS:.0f} to {LONGEST_SECONDS:.0f}; unset, {DEFAULT_SECONDS:.0f}",
        )
    return seconds
