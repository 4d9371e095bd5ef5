"""Which deliveries are told together, as one message (one cause opens many incidents of a kind), and which wait for it.

- Of one kind are the incidents of one check, else those whose key begins alike. Told together is what is of one kind,
  transition and severity, and came within GROUP_WINDOW_SECONDS: from GROUP_LEAST on; two are two messages.
- The first is told at once, with all that came with it. What comes within a window after it waits until that is over,
  and is told together then. Nothing waits for longer than the window.
- A group is put on record (`told_with`, the id of its first delivery) before it is sent: who is killed in between sends
  the same members under the same identity again.
"""

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, and_, func, select, update

from k2_dagster.state.tables import incident_deliveries as deliveries
from k2_dagster.state.tables import incident_transitions as transitions

# A broker that goes away shows in streams one after another, within the time of a look or two.
GROUP_WINDOW_SECONDS = 30.0
# Two messages tell more than one about two; three of a kind have one cause.
GROUP_LEAST = 3
# Rows that are locked and marked at once.
GROUP_MOST = 1_000
_TOLD = ("transition", "severity", "title", "body", "at")


def kind_of(key: str) -> str:
    """What incidents that are told together have in common: the check (of a table), else how the key begins."""
    parts = key.split("/")
    return "/".join(parts[:3]) if parts[0] == "check" and len(parts) > 3 else parts[0]


def first_due(target: str, window_seconds: float) -> Any:
    """The first delivery to a target whose time has come, before which nothing of its incident waits, and which waits
    for no group. Of a group, the first."""
    waiting = _waiting(target)
    together = (deliveries.c.told_with.is_(None)) | (deliveries.c.told_with == deliveries.c.id)
    return (
        _rows()
        .where(waiting, together, ~_held(window_seconds))
        .limit(1)
        .with_for_update(of=deliveries, skip_locked=True)
    )


def form_group(connection: Connection, first: Any, window_seconds: float, apart: Collection[int]) -> bool:
    """Put on record that a delivery (a row of `first_due`) is told with others that are due; whether there are any. Of
    a group that is on record nothing changes. Those `apart` were sent and not marked: they are not told again."""
    if first.told_with is not None:
        return True
    if first.id in apart:
        return False
    alike = and_(
        *_alike(first),
        deliveries.c.told_with.is_(None),
        deliveries.c.id.not_in(apart),
        transitions.c.at <= first.at + timedelta(seconds=window_seconds),
    )
    query = (
        _rows().where(_waiting(first.target), alike).limit(GROUP_MOST).with_for_update(of=deliveries, skip_locked=True)
    )
    members = [row.id for row in connection.execute(query)]
    if len(members) < GROUP_LEAST:
        return False
    connection.execute(update(deliveries).where(deliveries.c.id.in_(members)).values(told_with=first.id))
    return True


def members_of(connection: Connection, first: int) -> list[Any]:
    """The deliveries of the group of this id, oldest first, locked. Empty when somebody else has told it."""
    query = _rows().where(deliveries.c.told_with == first, deliveries.c.delivered_at.is_(None))
    return list(connection.execute(query.with_for_update(of=deliveries)))


def _rows() -> Any:
    told = and_(transitions.c.key == deliveries.c.key, transitions.c.number == deliveries.c.number)
    return (
        select(deliveries, *(transitions.c[name] for name in _TOLD)).join(transitions, told).order_by(deliveries.c.id)
    )


def _waiting(target: str) -> Any:
    other = deliveries.alias("other")
    earlier = select(other.c.id).where(
        other.c.target == target,
        other.c.key == deliveries.c.key,
        other.c.number < deliveries.c.number,
        other.c.delivered_at.is_(None),
        other.c.given_up_at.is_(None),
    )
    return and_(
        deliveries.c.target == target,
        deliveries.c.delivered_at.is_(None),
        deliveries.c.given_up_at.is_(None),
        deliveries.c.next_at <= func.clock_timestamp(),
        ~earlier.exists(),
    )


def _alike(first: Any) -> list[Any]:
    return [
        deliveries.c.kind == first.kind,
        transitions.c.transition == first.transition,
        transitions.c.severity == first.severity,
    ]


def _held(window_seconds: float) -> Any:
    """Whether it is younger than the window, and one like it, of an earlier look, was told within the window. What is
    tried again is not held."""
    since = func.clock_timestamp() - timedelta(seconds=window_seconds)
    sent, said = deliveries.alias("sent"), transitions.alias("said")
    before = (
        select(sent.c.id)
        .join(said, and_(said.c.key == sent.c.key, said.c.number == sent.c.number))
        .where(
            sent.c.target == deliveries.c.target,
            sent.c.kind == deliveries.c.kind,
            sent.c.delivered_at > since,
            said.c.transition == transitions.c.transition,
            said.c.severity == transitions.c.severity,
            said.c.at < transitions.c.at,
        )
    )
    return and_(transitions.c.at > since, deliveries.c.attempts == 0, deliveries.c.told_with.is_(None), before.exists())
