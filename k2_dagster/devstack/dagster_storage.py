"""Dagster's tables, laid out before its three processes start: at once, they would create them all three, and one that
loses the race ends, or logs every line twice for the rest of its life."""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from k2_dagster.devstack.process import Command, Progress, run_tool

# Twenty tables and their indexes; the imports take most of it. A busy machine stretches 4 s.
STORAGE_TIMEOUT_SECONDS = 120.0


def lay_out_storage(folder: Path, environment: Mapping[str, str], progress: Progress) -> None:
    """Create or migrate the tables of the instance in `folder`, once per version of Dagster. Raises StackFailed."""
    done = folder / f"storage-{version('dagster')}"
    if done.exists():
        return
    progress("laying out Dagster's storage")
    command = Command([sys.executable, "-m", "dagster", "instance", "migrate"], folder, "", environment)
    run_tool(command, STORAGE_TIMEOUT_SECONDS, "laying out Dagster's storage")
    done.touch()
