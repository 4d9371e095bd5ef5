"""Draining as a Dagster step does it: stopped by a termination at a commit boundary."""

import logging
from collections.abc import Sequence
from functools import partial

import dagster as dg

from k2_dagster.assets.failures import as_failures
from k2_dagster.assets.turns import take_turn
from k2_dagster.ingest.commit import CommitReport
from k2_dagster.ingest.drain import DrainReport, drain_exchange
from k2_dagster.ingest.last_resort import stoppable
from k2_dagster.resources.interrupts import interrupts_as_stop
from k2_dagster.resources.platform import Platform

logger = logging.getLogger(__name__)


def drain(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    platform: Platform,
    exchange: str,
    datasets: Sequence[str] | None,
    cap_seconds: float,
) -> DrainReport:
    """Drain an exchange (some or all of its datasets) until caught up or out of time, when no other run does.

    Raises dagster.Failure for an error of ours, and DagsterExecutionInterruptedError at a commit boundary after the
    run was terminated.
    """
    with as_failures():
        take_turn(context.instance, context.run, exchange, cap_seconds)
    return drain_in_step(platform, exchange, datasets, cap_seconds, context.run.run_id, context.log)


def drain_in_step(
    platform: Platform,
    exchange: str,
    datasets: Sequence[str] | None,
    cap_seconds: float,
    run_id: str,
    log: dg.DagsterLogManager,
) -> DrainReport:
    """The same when it is this run's turn, whatever others do."""
    with as_failures(), interrupts_as_stop() as stop:
        drain_now = partial(
            drain_exchange,
            platform.settings,
            platform.profiles,
            exchange,
            datasets=datasets,
            cap_seconds=cap_seconds,
            stop=stop,
            run_id=run_id,
            on_commit=_tell,
        )
        report = stoppable(drain_now, stop)
        state = "stopped" if stop.is_set() else "caught up" if report.caught_up else "out of time"
        log.info(
            "%s: %s after %.1f s, %d commits, %d rows, %d quarantined",
            *(exchange, state, report.seconds, report.commits, report.rows, report.quarantined),
        )
    return report


def _tell(commit: CommitReport) -> None:
    # To the process's log only: a line per commit in Dagster's event log would be 90 MB a day per stream
    logger.info(
        "%s/%s: commit %s, %d rows, %d quarantined, %.0f ms, %d behind",
        *(commit.exchange, commit.dataset, commit.commit_id, commit.rows, commit.quarantined),
        *(commit.commit_seconds * 1000, commit.lag_messages),
    )
