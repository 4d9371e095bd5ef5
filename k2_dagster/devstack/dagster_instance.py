"""What Dagster's instance needs beyond its dagster.yaml, before its three processes start."""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from k2_dagster.devstack.files import write_atomically
from k2_dagster.devstack.process import Command, Progress, run_tool

CHECKS_FILE = "checks.env"
JUDGED_BY = ("K2_DOCUMENTATION_URL", "K2_FRESHNESS_TARGET_SECONDS")
"""What checks are judged and shown by."""

STORAGE_TIMEOUT_SECONDS = 120.0
"""Twenty tables and their indexes; the imports take most of it. A busy machine stretches 4 s."""


def prepare_instance(folder: Path, environment: Mapping[str, str], progress: Progress) -> None:
    """Idempotent. Raises StackFailed."""
    _note_what_checks_are_judged_by(folder, environment)
    _lay_out_storage(folder, environment, progress)


def _note_what_checks_are_judged_by(folder: Path, environment: Mapping[str, str]) -> None:
    """So that `k2 check run`, in a shell with other settings, says the same as the code server."""
    lines = [f"{name}={environment[name]}\n" for name in JUDGED_BY if name in environment]
    write_atomically(folder / CHECKS_FILE, "".join(lines))


def _lay_out_storage(folder: Path, environment: Mapping[str, str], progress: Progress) -> None:
    """Create or migrate the tables, once per version of Dagster. Three processes that start at once would create them
    all three, and one that loses the race ends, or logs every line twice for the rest of its life."""
    done = folder / f"storage-{version('dagster')}"
    if done.exists():
        return
    progress("laying out Dagster's storage")
    command = Command([sys.executable, "-m", "dagster", "instance", "migrate"], folder, "", environment)
    run_tool(command, STORAGE_TIMEOUT_SECONDS, "laying out Dagster's storage")
    done.touch()
