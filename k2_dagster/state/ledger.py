"""Everything that an attempt may say to the coverage ledger, as JSON in `attempts.ledger`, and folding it.

Changes are proposed in an attempt and folded when it has landed, so a loser's changes are never seen and a re-run
neither loses nor doubles a row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, cast

from sqlalchemy import Connection

from k2_dagster.state.breakers import BreakerOpens, fold_breaker
from k2_dagster.state.channel_fills import CameLate, fold_late
from k2_dagster.state.feed_events import ConnectionChanged, SessionBegan, fold_connection, fold_session
from k2_dagster.state.gaps import LedgerChange, fold_gaps
from k2_dagster.state.holds import HoldEnds, fold_end
from k2_dagster.state.intervals import Cover, fold_cover

Change = LedgerChange | CameLate | Cover | SessionBegan | ConnectionChanged | BreakerOpens | HoldEnds

_CLASSES: Mapping[str, type[Change]] = {
    "report": LedgerChange,
    "settle": LedgerChange,
    "late": CameLate,
    "cover": Cover,
    "session": SessionBegan,
    "connection": ConnectionChanged,
    "halt": BreakerOpens,
    "resume": HoldEnds,
}
_FOLDS: Mapping[type[Change], Callable[[Connection, Any, Any], None]] = {
    CameLate: fold_late,
    Cover: fold_cover,
    SessionBegan: fold_session,
    ConnectionChanged: fold_connection,
    BreakerOpens: fold_breaker,
    HoldEnds: fold_end,
}


def as_records(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """For `attempts.ledger`."""
    return [asdict(one) for one in changes]


def fold_changes(connection: Connection, attempt: Any) -> None:
    """Apply an attempt's changes in their order, once: the caller is its settlement. `attempt` is its row."""
    changes = [_CLASSES[record["change"]](**record) for record in attempt.ledger]
    for kind, run in groupby(changes, key=type):
        if kind is LedgerChange:
            # a batch behind a lost stretch reports a gap of every symbol
            fold_gaps(connection, attempt, cast("list[LedgerChange]", list(run)))
        else:
            for change in run:
                _FOLDS[kind](connection, attempt, change)
