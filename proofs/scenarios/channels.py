"""What a feed handler must say of numbers that a channel missed, from what arrived and when: the proof's own rules."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from k2_dagster.schemas.common import MICROS_PER_SECOND
from proofs.scenarios.asked import Scenario
from proofs.scenarios.sending import Arrived, Run, Sent


@dataclass(frozen=True)
class Missed:
    """Numbers that are a gap, between messages of these venue's times; whether they come after all."""

    first: int
    last: int
    before_micros: int
    after_micros: int
    is_late: bool


def missed_by_handler(scenario: Scenario, run: Run, line: dict[str, Any]) -> Missed | None:
    """Of the numbers that a fault took from a channel, those that had not come when their grace was over; None when
    nothing behind them shows that they are missing, or all came in time."""
    arrived = run.arrived[line["channel"], line["session"]]
    first, last = int(line["first_sequence"]), int(line["last_sequence"])
    opened = next((place for place, one in enumerate(arrived) if one.number > last), None)
    if opened is None:
        return None
    before = max(arrived[:opened], key=lambda one: one.number)
    told = _told_at(scenario, arrived, opened)
    micros = before.micros
    for one in arrived[opened + 1 : told]:
        # what is held back comes in its order, the lowest first
        if first <= one.number <= last:
            first, micros = one.number + 1, one.micros
    if first > last:
        return None
    return Missed(first, last, micros, arrived[opened].micros, line["type"] == "late")


def fill_offset(said: Iterable[Sent], line: dict[str, Any], missed: Missed) -> int | None:
    """Where the handler said the last of what came late; None where nothing did."""
    if not missed.is_late:
        return None
    place = line["channel"], line["session"]
    told = [one for one in said if one.row["kind"] == "late" and (one.row["channel"], one.row["session"]) == place]
    within = (one for one in told if one.row["first_sequence"] <= missed.last)
    return max((one.offset for one in within if one.row["last_sequence"] >= missed.first), default=0)


def _told_at(scenario: Scenario, arrived: list[Arrived], opened: int) -> int:
    """The place of the message at which the grace is over, or the end."""
    by_count = opened + scenario.profile.gap_grace_messages + 1
    deadline = _clock(arrived, opened) + int(scenario.profile.gap_grace_seconds * MICROS_PER_SECOND)
    late = (place for place in range(opened, len(arrived)) if _clock(arrived, place) > deadline)
    return min(by_count, next(late, len(arrived)), len(arrived))


def _clock(arrived: list[Arrived], place: int) -> int:
    """The receiver's time, which the simulator never lets fall."""
    return arrived[place].received
