"""What was received of sessions that are over, as the tracker forgot it: many intervals in a row (`k2.coverage`).

A row per interval would be 250 bytes; a frame has a whole session's symbols in some 20 bytes each.
"""

from base64 import b64decode
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, insert

from k2_dagster.state.coverage_tables import coverage
from k2_dagster.state.times import from_micros


@dataclass(frozen=True, slots=True)
class Cover:
    """Intervals of one numbering that are over. `frame` is base64 of framed `keys` and `holes` (state/tracked.py); the
    times are the earliest and the latest in it, UTC microseconds."""

    numbering: str
    intervals: int
    from_micros: int
    to_micros: int
    frame: str
    change: Literal["cover"] = "cover"


def fold_cover(connection: Connection, attempt: Any, cover: Cover) -> None:
    """Add the intervals. `attempt` is its row."""
    connection.execute(
        insert(coverage).values(
            dataset=attempt.dataset,
            exchange=attempt.exchange,
            numbering=cover.numbering,
            intervals=cover.intervals,
            from_time=from_micros(cover.from_micros),
            to_time=from_micros(cover.to_micros),
            frame=b64decode(cover.frame),
            commit_id=attempt.id,
        )
    )
