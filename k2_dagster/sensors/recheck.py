"""Partitions to check although nothing landed: time alone changes what their checks say.

A failure that stands may be over: a day has closed, an operator has decided, numbers of yesterday have come. And a
stream that does not land any more makes no commit that would have its freshness checked.
"""

from collections.abc import Mapping

import dagster as dg
from sqlalchemy import func, select

from k2_dagster.assets.partitions import Partition, split
from k2_dagster.assets.standing import standing
from k2_dagster.resources.platform import Platform
from k2_dagster.schemas.datasets import TABLES
from k2_dagster.sensors.cursor import day_of
from k2_dagster.state.tables import gaps

STANDING_SECONDS = 3_600.0
# A look at Kafka and the fences, as the lag sensor has it every 5 s; an outage shows in the UI this late at most.
WAITING_SECONDS = 300.0
GAPS_CHECK = "sequence_gaps"
# The cursor's name for when the ledger's newest change was, that was looked at (epoch seconds of PostgreSQL's clock).
GAPS_CHANGED = "gaps_changed"
# Two changes are told apart by this: what the cursor keeps is a float.
CHANGE_SECONDS = 0.001


def rechecks(
    instance: dg.DagsterInstance, k2: Platform, looked_at: Mapping[str, float], now: float
) -> tuple[list[Partition], dict[str, float]]:
    """The partitions whose time has come, and when was looked for which (epoch seconds).

    Raises DatabaseUnavailable, NotInitialized (no control schema).
    """
    out, newest = _changed(instance, k2, looked_at.get(GAPS_CHANGED))
    # the first look is due one interval after the first tick, when there is something to look at
    after = {name: looked_at.get(name, now) for name in ("standing", "waiting")}
    if now - after["standing"] >= STANDING_SECONDS:
        after["standing"] = now
        out += _standing(instance)
    if now - after["waiting"] >= WAITING_SECONDS:
        after["waiting"] = now
        out += _waiting(k2, day_of(now))
    return list(dict.fromkeys(out)), after if newest is None else {**after, GAPS_CHANGED: newest}


def _changed(instance: dg.DagsterInstance, k2: Platform, since: float | None) -> tuple[list[Partition], float | None]:
    """Partitions whose failed check of gaps may pass since the ledger changed: numbers came, or somebody accepted that
    they are missing. And when the newest change was. A change that is committed behind a newer one waits for the hour.
    """
    at = func.extract("epoch", gaps.c.changed_at)
    query = select(gaps.c.dataset, gaps.c.exchange, gaps.c.event_day, func.max(at).label("newest"))
    if since is not None:
        query = query.where(at > since + CHANGE_SECONDS)
    with k2.database.begin() as connection:
        rows = connection.execute(query.group_by(gaps.c.dataset, gaps.c.exchange, gaps.c.event_day)).all()
    newest = max((float(row.newest) for row in rows), default=since)
    if since is None:
        return [], newest
    failing = (
        {(dataset, *split(key)) for dataset in TABLES for key in standing(instance, dataset).get(GAPS_CHECK, {})}
        if rows
        else set()
    )
    return [one for row in rows if (one := (row.dataset, row.exchange, row.event_day)) in failing], newest


def _standing(instance: dg.DagsterInstance) -> list[Partition]:
    """Those with a failure that stands."""
    return [
        (dataset, *split(key))
        for dataset in TABLES
        for key in sorted({key for failures in standing(instance, dataset).values() for key in failures})
    ]


def _waiting(k2: Platform, day: str) -> list[Partition]:
    """Today's, of streams with messages that are in no table."""
    report = k2.lag.read(sorted(k2.profiles.exchanges))
    return [(one.dataset, one.exchange, day) for one in report.lags if one.unlanded_messages]
