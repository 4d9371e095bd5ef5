"""What the demo plants, when, and how planted is compared with found. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

GAP_MESSAGES = 7
DUPLICATE_MESSAGES = 12
CORRUPT_MESSAGES = 3
# After the last fault the kill, a drain and a verify still need their time.
SHORTEST_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Moment:
    """One planted fault: seconds after the feed's start, what is said about it, and the simulator's option."""

    at_seconds: float
    announcement: str
    fault: str | None


TIMELINE = (
    Moment(10, f"planting a gap: {GAP_MESSAGES} trades of one symbol never arrive", f"drop:{GAP_MESSAGES}@10s"),
    Moment(14, f"planting {DUPLICATE_MESSAGES} duplicates", f"duplicate:{DUPLICATE_MESSAGES}@14s"),
    Moment(18, f"planting {CORRUPT_MESSAGES} corrupt messages", f"corrupt:{CORRUPT_MESSAGES}@18s"),
    Moment(22, "kill -9 of the ingest run, as soon as one is at work", None),
)
KILL = TIMELINE[-1]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the closing table."""

    what: str
    planted: int
    found: int

    @property
    def holds(self) -> bool:
        """Found is what was planted."""
        return self.planted == self.found


def feed_options(faults: bool) -> list[str]:
    """The simulator's fault options of the timeline."""
    return [part for moment in TIMELINE if moment.fault and faults for part in ("--fault", moment.fault)]


def read_truth(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The simulator's ground truth."""
    return [json.loads(line) for line in lines if line.strip()]


def gaps_found(truth: Iterable[Mapping[str, Any]], gaps: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """(planted, found): a gap is found when symbol and range are exactly the planted ones; others count as too many."""
    planted = {(one["symbol"], one["first_sequence"], one["last_sequence"]) for one in truth if one["type"] == "drop"}
    reported = {(one["symbol"], one["first_sequence"], one["last_sequence"]) for one in gaps}
    surplus = len(reported - planted)
    return len(planted), len(planted & reported) + surplus


def closing_table(
    truth: list[dict[str, Any]], gaps: Iterable[Mapping[str, Any]], reasons: Mapping[str, int], missing: int, extra: int
) -> list[Line]:
    """Planted beside found."""
    planted_gaps, found_gaps = gaps_found(truth, gaps)
    planted = {kind: sum(one["count"] for one in truth if one["type"] == kind) for kind in ("duplicate", "corrupt")}
    damaged = sum(count for reason, count in reasons.items() if reason != "duplicate")
    return [
        Line("gap", planted_gaps, found_gaps),
        Line("duplicates", planted["duplicate"], reasons.get("duplicate", 0)),
        Line("quarantine", planted["corrupt"], damaged),
        Line("missing", 0, missing),
        Line("extra", 0, extra),
    ]
