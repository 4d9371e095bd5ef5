"""Jobs: drain an exchange, check partitions, prune Dagster's storage; and the schedule of the last.

Each run carries `k2/lane`, whose limits in dagster.yaml keep one kind of work from starving another. A drain also
carries `k2/stream`, of which one run at a time is allowed per exchange.

    python -m k2_dagster.jobs --table ticks --exchange sim_crypto --day 2026-05-01

runs the checks of a partition in this process, records them in Dagster's storage where DAGSTER_HOME is set, and
prints them as JSON: what `k2 check run` calls.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster_duckdb import DuckDBResource
from pydantic import Field

from k2_dagster.assets.checks import evaluation, findings
from k2_dagster.assets.draining import drain as drain_now
from k2_dagster.assets.failures import as_failures
from k2_dagster.errors import K2Error, TransientError
from k2_dagster.resources.lake import duckdb_resource
from k2_dagster.resources.platform import Platform
from k2_dagster.resources.pruning import LANE_TAG, prune
from k2_dagster.schemas.datasets import dataset_named

STREAM_TAG = "k2/stream"
# Keys of the run configuration
DRAIN_OP, CHECK_OP = "drain_exchange", "check_partitions"
INGEST_LANE, CHECKS_LANE, UPKEEP_LANE = "ingest", "checks", "upkeep"


class DrainConfig(dg.Config):
    """What to drain. No dataset means all of the exchange; without a cap the setting `ingest_run_cap_seconds` holds."""

    exchange: str
    datasets: list[str] = Field(default_factory=list)
    cap_seconds: float | None = None


class PartitionConfig(dg.Config):
    """One partition of a table: `ticks`, `sim_crypto`, `2026-05-01`."""

    table: str
    exchange: str
    day: str


class CheckConfig(dg.Config):
    """The partitions to check, each read once."""

    partitions: list[PartitionConfig]


@dg.op(name=DRAIN_OP)
def drain_op(context: dg.OpExecutionContext, config: DrainConfig, k2: dg.ResourceParam[Platform]) -> None:
    """Land what waits on the exchange's topics; ends when caught up, at the cap, or at a commit after a termination."""
    cap = config.cap_seconds or k2.settings.ingest_run_cap_seconds
    drain_now(k2, config.exchange, config.datasets or None, cap, context.run.run_id, context.log)


@dg.job(name="drain", tags={LANE_TAG: INGEST_LANE}, executor_def=dg.in_process_executor)
def drain_job() -> None:
    """Drain one exchange. Its materializations are logged by the `commits` sensor."""
    drain_op()


@dg.op(name=CHECK_OP)
def check_op(
    context: dg.OpExecutionContext, config: CheckConfig, k2: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> None:
    """Evaluate every check of the partitions and log them for their partitions. A finding does not fail the run."""
    for one in config.partitions:
        with as_failures():
            dataset = dataset_named(one.table).name
            found = findings(k2, duckdb, dataset, one.exchange, one.day)
        for finding in found:
            context.log_event(evaluation(dataset, one.exchange, one.day, finding))  # type: ignore[arg-type]
        failed = [finding.check for finding in found if not finding.passed]
        context.log.info("%s %s %s: %s", one.table, one.exchange, one.day, ", ".join(failed) or "all checks passed")


@dg.job(name="check", tags={LANE_TAG: CHECKS_LANE}, executor_def=dg.in_process_executor)
def check_job() -> None:
    """Check any partitions, named in the configuration."""
    check_op()


@dg.op(name="prune_storage")
def prune_op(context: dg.OpExecutionContext) -> None:
    """Delete old runs and events from Dagster's storage."""
    done = prune(context.instance)
    context.log.info(
        "%d runs, %d events and %d check records deleted%s",
        *(done.runs, done.events, done.checks, "" if done.complete else "; out of time, the next run goes on"),
    )


@dg.job(name="prune", tags={LANE_TAG: UPKEEP_LANE}, executor_def=dg.in_process_executor)
def prune_job() -> None:
    """Keep Dagster's storage small."""
    prune_op()


prune_schedule = dg.ScheduleDefinition(
    name="prune_hourly",
    job=prune_job,
    cron_schedule="17 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


def drain_run_config(exchange: str) -> dict[str, Any]:
    """Configuration of the job `drain`: every dataset of an exchange, up to the cap of the settings."""
    return {"ops": {DRAIN_OP: {"config": {"exchange": exchange}}}}


def check_run_config(partitions: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """Configuration of the job `check` for (table, exchange, day) partitions."""
    chosen = [{"table": table, "exchange": exchange, "day": day} for table, exchange, day in partitions]
    return {"ops": {CHECK_OP: {"config": {"partitions": chosen}}}}


def run_checks(
    platform: Platform, instance: dg.DagsterInstance, partitions: Sequence[tuple[str, str, str]]
) -> list[dict[str, Any]]:
    """Run the job `check` in this process. One JSON-able object per check and partition.

    Raises ConfigurationError, NotInitialized or another K2Error as the checks do.
    """
    result = check_job.execute_in_process(
        run_config=check_run_config(partitions),
        instance=instance,
        resources={"k2": platform, "duckdb": duckdb_resource(platform.settings)},
        raise_on_error=False,
    )
    if not result.success:
        raise _cause(result)
    return [
        {
            "table": one.asset_key.to_user_string(),
            "partition": one.partition,
            "check": one.check_name,
            "passed": one.passed,
            "severity": None if one.passed else one.severity.value,
            "summary": one.description,
            "metadata": {name: value.value for name, value in one.metadata.items() if name != "what_to_do"},
        }
        for one in result.get_asset_check_evaluations()
    ]


def _cause(result: dg.ExecuteInProcessResult) -> K2Error:
    """The step's failure as an error of ours."""
    for event in result.filter_events(lambda one: one.is_step_failure):
        data = event.step_failure_data
        given = data.user_failure_data
        if given is not None:
            told = {name: value.value for name, value in given.metadata.items()}
            return K2Error(given.description or "the checks failed", advice=str(told.get("advice", "")))
        if data.error is not None:
            return K2Error(data.error.to_string())
    return TransientError("the checks did not run to their end", advice="see the run in Dagster")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: every check passed; 1: a finding; 4: the checks could not be run."""
    parser = argparse.ArgumentParser(prog="python -m k2_dagster.jobs", description="Run the checks of a partition.")
    for name in ("table", "exchange", "day"):
        parser.add_argument(f"--{name}", required=True)
    chosen = parser.parse_args(arguments)
    recorded = "DAGSTER_HOME" in os.environ
    platform = Platform.from_environment()
    try:
        with dg.DagsterInstance.get() if recorded else dg.DagsterInstance.ephemeral() as instance:
            found = run_checks(platform, instance, [(chosen.table, chosen.exchange, chosen.day)])
    except K2Error as error:
        sys.stdout.write(
            json.dumps({"error": error.message, "advice": error.advice, "transient": isinstance(error, TransientError)})
            + "\n"
        )
        return 4
    finally:
        platform.close()
    sys.stdout.write(json.dumps({"recorded": recorded, "checks": found}) + "\n")
    return 0 if all(one["passed"] for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
