"""What the demo plants, when, and how planted is compared with found. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

EXCHANGE = "sim_crypto"
GAP_MESSAGES = 7
DUPLICATE_MESSAGES = 12
CORRUPT_MESSAGES = 3
# Rows are in Iceberg this soon after the end of the installation.
FIRST_ROWS_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Moment:
    """One planted fault: seconds after the feed's start, what is said about it, and the simulator's option."""

    at_seconds: float
    announcement: str
    fault: str | None


TIMELINE = (
    Moment(10, f"planting a gap: {GAP_MESSAGES} trades of one symbol never arrive", f"drop:{GAP_MESSAGES}@10s/ticks"),
    Moment(14, f"planting {DUPLICATE_MESSAGES} duplicates", f"duplicate:{DUPLICATE_MESSAGES}@14s"),
    Moment(18, f"planting {CORRUPT_MESSAGES} corrupt messages", f"corrupt:{CORRUPT_MESSAGES}@18s"),
    Moment(22, "next: kill -9 of an ingest run that has committed", None),
)
KILL = TIMELINE[-1]
# A gap is told when its grace of 5 s is over and one more message has come.
TOLD_AFTER_SECONDS = 7.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the closing table. Without `planted` it is a count: a capture brings what it brings."""

    what: str
    planted: int | None
    found: int

    @property
    def holds(self) -> bool:
        """Found is what was planted."""
        return self.planted is None or self.planted == self.found


def feed_options() -> list[str]:
    """The simulator's fault options of the timeline."""
    return [part for moment in TIMELINE if moment.fault for part in ("--fault", moment.fault)]


def due(waiting: list[Moment], elapsed_seconds: float) -> list[Moment]:
    """Take the moments whose time has come from those that wait."""
    found = [one for one in waiting if one.at_seconds <= elapsed_seconds]
    waiting[:] = [one for one in waiting if one.at_seconds > elapsed_seconds]
    return found


def read_truth(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The simulator's ground truth."""
    return [json.loads(line) for line in lines if line.strip()]


def seconds_until_told(elapsed_seconds: float) -> float:
    """How much longer the feed has to run until the planted gap is told of; 0 before it is planted."""
    planted = TIMELINE[0].at_seconds
    return max(0.0, planted + TOLD_AFTER_SECONDS - elapsed_seconds) if elapsed_seconds >= planted else 0.0


def gaps_found(truth: Iterable[Mapping[str, Any]], gaps: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """(planted, found): a gap is found when symbol and range are exactly the planted ones; others count as too many."""
    planted = {(one["symbol"], one["first_sequence"], one["last_sequence"]) for one in truth if one["type"] == "drop"}
    reported = {(one["symbol"], one["first_sequence"], one["last_sequence"]) for one in gaps}
    surplus = len(reported - planted)
    return len(planted), len(planted & reported) + surplus


def fault_lines(
    truth: list[dict[str, Any]] | None, gaps: Iterable[Mapping[str, Any]], reasons: Mapping[str, int]
) -> list[Line]:
    """Planted faults beside found ones. Without `truth` (a capture) nothing was planted; what is found is counted."""
    gaps = list(gaps)
    damaged = sum(count for reason, count in reasons.items() if reason != "duplicate")
    duplicates = reasons.get("duplicate", 0)
    if truth is None:
        return [Line("gap", None, len(gaps)), Line("duplicates", None, duplicates), Line("quarantine", None, damaged)]
    planted_gaps, found_gaps = gaps_found(truth, gaps)
    planted = {kind: sum(one["count"] for one in truth if one["type"] == kind) for kind in ("duplicate", "corrupt")}
    return [
        Line("gap", planted_gaps, found_gaps),
        Line("duplicates", planted["duplicate"], duplicates),
        Line("quarantine", planted["corrupt"], damaged),
    ]
