"""Old runs and events out of Dagster's storage, which has no retention of its own beyond ticks.

Two statements here know Dagster's table names: events without a run cannot be deleted through its interface.
"""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from sqlalchemy import Connection, text

# Drains and checks that went well: 20 a minute are 0.9 GB a day (33 KB each), and nobody looks at them twice.
ROUTINE_KEPT_HOURS = 48
# Everything else: failures, backfills, hand-made runs; and events without a run (mirrored commits).
KEPT_DAYS = 30
# A prune takes no longer than this; the next one goes on.
PRUNE_SECONDS = 120.0
# Runs deleted between two looks at the clock.
BATCH_RUNS = 100

ROUTINE_LANES = ("ingest", "checks", "upkeep")
LANE_TAG = "k2/lane"

# What is newest of each partition stays, however old: it is what makes the partition's state in the UI.
_OLD_EVENTS = text("""
    DELETE FROM event_logs old USING event_logs newer
    WHERE old.run_id = '' AND old.asset_key IS NOT NULL AND old.timestamp < :before
      AND newer.asset_key = old.asset_key AND newer.partition IS NOT DISTINCT FROM old.partition
      AND newer.dagster_event_type = old.dagster_event_type AND newer.id > old.id
""")
_OLD_CHECKS = text("""
    DELETE FROM asset_check_executions old USING asset_check_executions newer
    WHERE old.create_timestamp < :before AND old.execution_status <> 'PLANNED'
      AND newer.asset_key = old.asset_key AND newer.check_name = old.check_name
      AND newer.partition IS NOT DISTINCT FROM old.partition AND newer.id > old.id
""")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune removed. `complete` is False when its time was over before everything old was gone."""

    runs: int
    events: int
    checks: int
    complete: bool


def prune(instance: dg.DagsterInstance, now: datetime | None = None) -> Pruned:
    """Delete what is older than it is kept. Needs Dagster's storage on PostgreSQL."""
    now = now or datetime.now(UTC)
    routine = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED],
        tags={LANE_TAG: list(ROUTINE_LANES)},
        updated_before=now - timedelta(hours=ROUTINE_KEPT_HOURS),
    )
    finished = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE]
    any_run = dg.RunsFilter(statuses=finished, updated_before=now - timedelta(days=KEPT_DAYS))
    deadline = time.monotonic() + PRUNE_SECONDS
    runs, complete = 0, True
    for old in (routine, any_run):
        deleted, whole = _delete_runs(instance, old, deadline)
        runs, complete = runs + deleted, complete and whole
    before = {"before": (now - timedelta(days=KEPT_DAYS)).replace(tzinfo=None)}
    with _connection(instance) as connection:
        events = connection.execute(_OLD_EVENTS, before).rowcount
        checks = connection.execute(_OLD_CHECKS, before).rowcount
    return Pruned(runs, int(events), int(checks), complete)


def _delete_runs(instance: dg.DagsterInstance, old: dg.RunsFilter, deadline: float) -> tuple[int, bool]:
    deleted = 0
    while time.monotonic() < deadline:
        runs = instance.get_runs(old, limit=BATCH_RUNS)
        if not runs:
            return deleted, True
        for run in runs:
            instance.delete_run(run.run_id)
        deleted += len(runs)
    return deleted, False


def _connection(instance: dg.DagsterInstance) -> AbstractContextManager[Connection]:
    connect: AbstractContextManager[Connection] = instance.event_log_storage.index_connection()  # type: ignore[attr-defined]
    return connect
