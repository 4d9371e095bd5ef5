"""What an open breaker means for a stream, in words. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from k2_dagster.schemas.topics import CONTROL_DATASET

# Open breakers that a problem names; `k2 breaker list` shows them all.
BREAKERS_NAMED = 3
# Share of Kafka's retention after which what has not landed is pressing: time is left to act, and not for ever.
PRESSING_SHARE = 0.5


def breaker_words(policy: str, dataset: str, open_breakers: Sequence[Mapping[str, Any]]) -> str:
    """For a column: whether the stream has one, and how many partitions are halted. `policy` is the profile's
    `on_critical_gap`. What a feed handler says of its channels never halts."""
    if dataset == CONTROL_DATASET:
        return "none"
    if open_breakers:
        return f"open: {len(open_breakers)}"
    return "closed" if policy == "halt" else "none (mark_stale)"


def halted_problem(open_breakers: Sequence[Mapping[str, Any]], retention_hours: int, now: datetime) -> str:
    """Why the partitions are not read on, and what lets them go on; empty without an open breaker."""
    named = [_one(row, retention_hours, now) for row in open_breakers[:BREAKERS_NAMED]]
    if len(open_breakers) > BREAKERS_NAMED:
        named.append(f"and {len(open_breakers) - BREAKERS_NAMED} more, see `k2 breaker list`")
    return "; ".join(named)


def is_pressing(opened_at: datetime, retention_hours: int, now: datetime) -> bool:
    """Whether half of what Kafka retains has passed since."""
    return now - opened_at > timedelta(hours=retention_hours) * PRESSING_SHARE


def _one(row: Mapping[str, Any], retention_hours: int, now: datetime) -> str:
    missing = f"{row['missing']:,} numbers of {row['symbol']} are missing"
    text = f"partition {row['kafka_partition']} halts behind offset {row['kafka_offset']}, {missing}"
    if is_pressing(row["opened_at"], retention_hours, now):
        gone = row["opened_at"] + timedelta(hours=retention_hours)
        text += f"; Kafka drops what waits there from {gone:%Y-%m-%d %H:%M} UTC on"
    return f"{text}: `k2 breaker acknowledge {row['id']}` lets it go on"
