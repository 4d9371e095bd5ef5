"""Old runs, events and logs out of Dagster's storage, which has no retention of its own beyond ticks.

Two statements here know Dagster's table names: events without a run cannot be deleted through its interface.
"""

import os
import shutil
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from sqlalchemy import Connection, text

from k2_dagster.resources.tags import CHECKS_LANE, INGEST_LANE, LANE_TAG, UPKEEP_LANE

# Drains and checks that went well: 20 a minute are 0.9 GB a day (33 KB each), and nobody looks at them twice.
# Evaluations that a newer one of their partition has replaced: at 40 partitions a minute as much again.
ROUTINE_KEPT_HOURS = 48
# Mirrored materializations and observations with a newer one of their partition: a week of plots. Logs of ticks.
EVENTS_KEPT_DAYS = 7
# Everything else: failures, backfills, hand-made runs.
KEPT_DAYS = 30
# A prune takes no longer than this; the next one goes on.
PRUNE_SECONDS = 120.0
# Runs deleted between two looks at the clock.
BATCH_RUNS = 100
# A longer log of Dagster's own processes is set aside, one generation, as the development stack does at their start.
LOG_KEEP_BYTES = 20 * 1024 * 1024

ROUTINE_LANES = (INGEST_LANE, CHECKS_LANE, UPKEEP_LANE)

# What is newest of each partition stays, however old: it is what makes the partition's state in the UI.
_OLD_EVENTS = text("""
    DELETE FROM event_logs old USING (
        SELECT asset_key, partition, dagster_event_type, max(id) AS id
        FROM event_logs WHERE run_id = '' AND asset_key IS NOT NULL
        GROUP BY asset_key, partition, dagster_event_type
    ) newest
    WHERE old.run_id = '' AND old.asset_key = newest.asset_key AND old.timestamp < :before
      AND old.partition IS NOT DISTINCT FROM newest.partition
      AND old.dagster_event_type = newest.dagster_event_type AND old.id < newest.id
""")
_OLD_CHECKS = text("""
    DELETE FROM asset_check_executions old USING (
        SELECT asset_key, check_name, partition, max(id) AS id
        FROM asset_check_executions GROUP BY asset_key, check_name, partition
    ) newest
    WHERE old.create_timestamp < :before AND old.execution_status <> 'PLANNED'
      AND old.asset_key = newest.asset_key AND old.check_name = newest.check_name
      AND old.partition IS NOT DISTINCT FROM newest.partition AND old.id < newest.id
""")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune removed. `complete` is False when its time was over before everything old was gone."""

    runs: int
    events: int
    checks: int
    tick_logs: int
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
    with _connection(instance) as connection:
        before = {"before": (now - timedelta(days=EVENTS_KEPT_DAYS)).replace(tzinfo=None)}
        events = connection.execute(_OLD_EVENTS, before).rowcount
        before = {"before": (now - timedelta(hours=ROUTINE_KEPT_HOURS)).replace(tzinfo=None)}
        checks = connection.execute(_OLD_CHECKS, before).rowcount
    tick_logs = _delete_tick_logs(instance, (now - timedelta(days=EVENTS_KEPT_DAYS)).timestamp())
    return Pruned(runs, int(events), int(checks), tick_logs, complete)


def set_aside_logs(folder: Path) -> list[str]:
    """Begin anew the logs of Dagster's own processes in a folder that have grown long; the old content goes to
    `<name>.1`. Their names, for those that did. The processes write at the end of the file, wherever that is."""
    done = []
    for log in sorted(folder.glob("dagster-*.log")):
        if log.stat().st_size > LOG_KEEP_BYTES:
            shutil.copyfile(log, log.with_name(log.name + ".1"))
            os.truncate(log, 0)
            done.append(log.name)
    return done


def _delete_runs(instance: dg.DagsterInstance, old: dg.RunsFilter, deadline: float) -> tuple[int, bool]:
    deleted = 0
    while time.monotonic() < deadline:
        runs = instance.get_runs(old, limit=BATCH_RUNS)
        if not runs:
            return deleted, True
        for run in runs:
            # first the logs: without the run, nobody would know their place
            instance.compute_log_manager.delete_logs(prefix=[run.run_id])
            instance.delete_run(run.run_id)
        deleted += len(runs)
    return deleted, False


def _delete_tick_logs(instance: dg.DagsterInstance, before: float) -> int:
    """Dagster deletes old ticks and leaves their logs. On object storage a life-cycle rule does this."""
    manager = instance.compute_log_manager
    if not isinstance(manager, LocalComputeLogManager):
        return 0
    deleted = 0
    for state in instance.all_instigator_state():
        prefix = [state.origin.repository_origin.repository_name, state.instigator_name]
        try:
            keys = manager.get_log_keys_for_log_key_prefix(prefix, ComputeIOType.STDERR)
        except FileNotFoundError:
            # it has never logged anything
            continue
        for key in keys:
            if Path(manager.get_captured_local_path(key, "err")).stat().st_mtime < before:
                manager.delete_logs(log_key=key)
                deleted += 1
    return deleted


def _connection(instance: dg.DagsterInstance) -> AbstractContextManager[Connection]:
    connect: AbstractContextManager[Connection] = instance.event_log_storage.index_connection()  # type: ignore[attr-defined]
    return connect
