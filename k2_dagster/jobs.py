"""Jobs: drain an exchange, check partitions, let a halted partition go on, prune Dagster's storage on a schedule.

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

from k2_dagster.assets.draining import drain as drain_now
from k2_dagster.assets.evaluating import Checked, evaluate, record
from k2_dagster.assets.failures import TRANSIENT, as_failures
from k2_dagster.assets.partitions import Partition, partition_key
from k2_dagster.errors import K2Error, TerminalError, TransientError
from k2_dagster.resources.lake import duckdb_resource
from k2_dagster.resources.platform import Platform
from k2_dagster.resources.pruning import prune, set_aside_logs
from k2_dagster.resources.tags import CHECKS_LANE, INGEST_LANE, LANE_TAG, MAX_RUNTIME_TAG, UPKEEP_LANE
from k2_dagster.schemas.datasets import TABLES, dataset_named
from k2_dagster.state.breakers import acknowledge_breaker

# Keys of the run configuration
DRAIN_OP, CHECK_OP = "drain_exchange", "check_partitions"
# Where the development stack keeps the logs of its processes, below the home.
LOGS_FOLDER = "logs"
# A check run by hand, in a process that Dagster does not watch: killed, it must not hold the lane of the others.
BY_HAND = {LANE_TAG: "by_hand", MAX_RUNTIME_TAG: "3600"}


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
    """The partitions to check, each read once. `mirrored`: report what landed in them too, as the sensor asks for."""

    partitions: list[PartitionConfig]
    mirrored: bool = False


class AcknowledgeConfig(dg.Config):
    """Which breaker (an id of `k2 breaker list`), who lets its partition go on, and why."""

    breaker_id: int
    acknowledged_by: str
    reason: str


@dg.op(name=DRAIN_OP)
def drain_op(context: dg.OpExecutionContext, config: DrainConfig, k2: dg.ResourceParam[Platform]) -> None:
    """Land what waits on the exchange's topics; ends when caught up, at the cap, or at a commit after a termination."""
    cap = config.cap_seconds or k2.settings.ingest_run_cap_seconds
    drain_now(context, k2, config.exchange, config.datasets or None, cap)


@dg.job(name="drain", tags={LANE_TAG: INGEST_LANE}, executor_def=dg.in_process_executor)
def drain_job() -> None:
    """Drain one exchange. What landed is reported by check runs."""
    drain_op()


@dg.op(name=CHECK_OP)
def check_op(
    context: dg.OpExecutionContext, config: CheckConfig, k2: dg.ResourceParam[Platform], duckdb: DuckDBResource
) -> None:
    """Evaluate every check of the partitions and log them for their partitions. A finding does not fail the run; a
    partition that cannot be read does, after the others."""
    with as_failures():
        chosen = [(dataset_named(one.table).name, one.exchange, one.day) for one in config.partitions]
        done = evaluate(k2, duckdb, chosen)
        record(context.instance, k2, context.log_event, done.checked, mirrored=config.mirrored)  # type: ignore[arg-type]
        for one in done.checked:
            context.log.info("%s %s %s: %s", *one.partition, _told(one))
        for partition, error in done.errors.items():
            context.log.error("%s %s %s cannot be checked: %s", *partition, error)
        for error in done.errors.values():
            raise error


def _told(one: Checked) -> str:
    failed = [finding.check for finding in one.found if not finding.passed]
    return f"{', '.join(failed) or 'all checks passed'} ({one.facts.rows} rows in {one.seconds:.2f} s)"


@dg.job(name="check", tags={LANE_TAG: CHECKS_LANE}, executor_def=dg.in_process_executor)
def check_job() -> None:
    """Check any partitions, named in the configuration."""
    check_op()


@dg.op(name="acknowledge_breaker")
def acknowledge_op(context: dg.OpExecutionContext, config: AcknowledgeConfig, k2: dg.ResourceParam[Platform]) -> None:
    """Let a halted partition go on; the next drain reads it."""
    with as_failures():
        done = acknowledge_breaker(
            k2.database, config.breaker_id, acknowledged_by=config.acknowledged_by, reason=config.reason
        )
        context.log.info(
            "%s/%s partition %d goes on behind offset %d: %s",
            *(done["exchange"], done["dataset"], done["kafka_partition"], done["kafka_offset"]),
            f"{done['acknowledged_reason']} ({done['acknowledged_by']})",
        )


@dg.job(name="acknowledge", tags={LANE_TAG: UPKEEP_LANE}, executor_def=dg.in_process_executor)
def acknowledge_job() -> None:
    """Let a partition that a critical gap halted go on, with a name and a reason on record."""
    acknowledge_op()


# For the UI: the job by which a person materializes, and by which the tables name the sensor that reports them
materialize_job = dg.define_asset_job(
    "materialize",
    selection=dg.AssetSelection.assets(*TABLES),
    description="Materialize partitions of the open day by hand: drains their exchange.",
)


@dg.op(name="prune_storage")
def prune_op(context: dg.OpExecutionContext, k2: dg.ResourceParam[Platform]) -> None:
    """Delete old runs, events and logs from Dagster's storage, and begin long logs of its processes anew."""
    done = prune(context.instance)
    context.log.info(
        "%d runs, %d events, %d check records and %d logs of ticks deleted%s",
        *(done.runs, done.events, done.checks, done.tick_logs),
        "" if done.complete else "; out of time, the next run goes on",
    )
    if set_aside := set_aside_logs(k2.settings.home / LOGS_FOLDER):
        context.log.info("set aside: %s", ", ".join(set_aside))


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


def check_run_config(partitions: Sequence[Partition], *, mirrored: bool = False) -> dict[str, Any]:
    """Configuration of the job `check`."""
    chosen = [{"table": table, "exchange": exchange, "day": day} for table, exchange, day in partitions]
    return {"ops": {CHECK_OP: {"config": {"partitions": chosen, "mirrored": mirrored}}}}


def run_checks(
    platform: Platform, instance: dg.DagsterInstance, partitions: Sequence[Partition]
) -> list[dict[str, Any]]:
    """Run the job `check` in this process. One JSON-able object per check and partition.

    Raises ConfigurationError, NotInitialized or another K2Error as the checks do.
    """
    asked = {(table, partition_key(exchange, day)) for table, exchange, day in partitions}
    result = check_job.execute_in_process(
        run_config=check_run_config(partitions),
        instance=instance,
        tags=BY_HAND,
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
        # failures of other partitions, which still stand, are logged again beside them
        if (one.asset_key.to_user_string(), one.partition) in asked
    ]


def _cause(result: dg.ExecuteInProcessResult) -> K2Error:
    """The step's failure as an error of ours."""
    for event in result.filter_events(lambda one: one.is_step_failure):
        data = event.step_failure_data
        given = data.user_failure_data
        if given is not None:
            told = {name: value.value for name, value in given.metadata.items()}
            kind: type[K2Error] = TransientError if told.get(TRANSIENT) else TerminalError
            return kind(given.description or "the checks failed", advice=str(told.get("advice", "")))
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
