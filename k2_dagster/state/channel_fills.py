"""Numbers of a channel that came after their gap was reported fill it: each number once, however often it is told.

Who tells may be the feed handler or the recovery service, and one may be killed and tell again. So what has filled a
gap is kept as ranges, not only counted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, func, insert, select, update

from k2_dagster.state.coverage_tables import channel_fills
from k2_dagster.state.gap_states import next_state
from k2_dagster.state.tables import gaps

CHANNEL = "channel"


@dataclass(frozen=True, slots=True)
class CameLate:
    """Numbers `first_sequence` to `last_sequence` of a channel's session came late, says the message at an offset."""

    channel: str
    session: str
    first_sequence: int
    last_sequence: int
    topic_epoch: int
    kafka_partition: int
    kafka_offset: int
    change: Literal["late"] = "late"


def without(first: int, last: int, taken: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of `first`..`last` without the ranges that are taken (all inclusive), in order."""
    left = [(first, last)]
    for start, stop in taken:
        left = [
            rest
            for low, high in left
            for rest in ((low, min(high, start - 1)), (max(low, stop + 1), high))
            if rest[0] <= rest[1]
        ]
    return sorted(set(left))


def fold_late(connection: Connection, attempt: Any, late: CameLate) -> None:
    """Fill the gaps of the channel that had these numbers missing. `attempt` is its row."""
    which = (
        (gaps.c.dataset == attempt.dataset)
        & (gaps.c.exchange == attempt.exchange)
        & (gaps.c.numbering == CHANNEL)
        & (gaps.c.channel == late.channel)
        & (gaps.c.session == late.session)
        & (gaps.c.first_sequence <= late.last_sequence)
        & (gaps.c.last_sequence >= late.first_sequence)
    )
    # somebody may be asking for its numbers, or accepting that they are missing
    for gap in connection.execute(select(gaps).where(which).order_by(gaps.c.id).with_for_update()).all():
        _fill(connection, attempt, gap, late)


def _fill(connection: Connection, attempt: Any, gap: Any, late: CameLate) -> None:
    first = max(gap.first_sequence, late.first_sequence)
    last = min(gap.last_sequence, late.last_sequence)
    known = select(channel_fills.c.first_sequence, channel_fills.c.last_sequence).where(
        channel_fills.c.gap_id == gap.id,
        channel_fills.c.first_sequence <= last,
        channel_fills.c.last_sequence >= first,
    )
    pieces = without(first, last, [(low, high) for low, high in connection.execute(known)])
    if not pieces:
        return
    names = ("topic_epoch", "kafka_partition", "kafka_offset")
    at = {name: getattr(late, name) for name in names}
    connection.execute(
        insert(channel_fills),
        [
            {"gap_id": gap.id, "first_sequence": low, "last_sequence": high, "commit_id": attempt.id, **at}
            for low, high in pieces
        ],
    )
    filled = gap.filled + sum(high - low + 1 for low, high in pieces)
    span = gap.last_sequence - gap.first_sequence + 1
    connection.execute(
        update(gaps)
        .where(gaps.c.id == gap.id)
        .values(
            filled=filled,
            state=next_state(gap.state, "fill") if filled >= span else gap.state,
            commit_id=attempt.id,
            changed_at=func.now(),
        )
    )
