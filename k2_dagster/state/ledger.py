"""Everything that an attempt may say to the coverage ledger, as JSON in `attempts.ledger`, and folding it.

Changes are proposed in an attempt and folded when it has landed, so a loser's changes are never seen and a re-run
neither loses nor doubles a row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from k2_dagster.state.breakers import BreakerOpens, fold_breaker
from k2_dagster.state.channel_fills import CameLate, fold_late
from k2_dagster.state.feed_events import ConnectionChanged, SessionBegan, fold_connection, fold_session
from k2_dagster.state.gaps import LedgerChange, fold_gap
from k2_dagster.state.intervals import Cover, fold_cover

Change = LedgerChange | CameLate | Cover | SessionBegan | ConnectionChanged | BreakerOpens

_CLASSES: Mapping[str, type[Change]] = {
    "report": LedgerChange,
    "settle": LedgerChange,
    "late": CameLate,
    "cover": Cover,
    "session": SessionBegan,
    "connection": ConnectionChanged,
    "halt": BreakerOpens,
}
_FOLDS: Mapping[type[Change], Callable[[Connection, Any, Any], None]] = {
    LedgerChange: fold_gap,
    CameLate: fold_late,
    Cover: fold_cover,
    SessionBegan: fold_session,
    ConnectionChanged: fold_connection,
    BreakerOpens: fold_breaker,
}


def as_records(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """For `attempts.ledger`."""
    return [asdict(one) for one in changes]


def fold_changes(connection: Connection, attempt: Any) -> None:
    """Apply an attempt's changes in their order, once: the caller is its settlement. `attempt` is its row."""
    for record in attempt.ledger:
        change = _CLASSES[record["change"]](**record)
        _FOLDS[type(change)](connection, attempt, change)
