"""Dagster's composition root: everything that it knows of K2. Importing it connects to nothing."""

import dagster as dg

from k2_dagster.assets.checks import table_checks
from k2_dagster.assets.tables import table_assets
from k2_dagster.assets.topics import topic_specs
from k2_dagster.jobs import acknowledge_job, check_job, drain_job, materialize_job, prune_job, prune_schedule
from k2_dagster.resources.lake import duckdb_resource
from k2_dagster.resources.platform import Platform
from k2_dagster.sensors.commits import commits_sensor
from k2_dagster.sensors.lag import lag_sensor


def build_definitions(platform: Platform) -> dg.Definitions:
    """The definitions for one set of settings and profiles."""
    return dg.Definitions(
        assets=[*topic_specs(platform.profiles), *table_assets(platform.profiles)],
        asset_checks=table_checks(platform.profiles, platform.settings.documentation_url),
        jobs=[drain_job, check_job, acknowledge_job, materialize_job, prune_job],
        sensors=[lag_sensor, commits_sensor],
        schedules=[prune_schedule],
        # Dagster's own events are in its storage; written out at DEBUG they are 2 KB a run in the code server's log
        loggers={"console": dg.colored_console_logger.configured({"log_level": "INFO"})},
        resources={"k2": platform, "duckdb": duckdb_resource(platform.settings)},
        # A process per step would pay the imports once more (1.3 s) and isolate nothing: every run has one step
        executor=dg.in_process_executor,
    )


defs = build_definitions(Platform.from_environment())
