"""A drain as a Dagster step does it, in a process that can be terminated; the settings come from K2_*."""

import logging
import sys

import dagster as dg

from k2_dagster.assets.draining import drain_in_step
from k2_dagster.observability.logs import configure_logs
from k2_dagster.resources.platform import Platform


def main(exchange: str) -> None:
    """Drain until terminated."""
    platform = Platform.from_environment()
    configure_logs(platform.settings)
    logging.getLogger("k2_dagster").setLevel(logging.INFO)
    try:
        while True:
            log = dg.get_dagster_logger("test")
            drain_in_step(platform, exchange, None, 300.0, "test", log)  # type: ignore[arg-type]
    except dg.DagsterExecutionInterruptedError:
        sys.stdout.write("interrupted\n")
