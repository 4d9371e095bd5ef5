"""`k2 check`: the asset checks of a partition, now.

The checks live with Dagster, which costs seconds to import and which the command line never loads, so they run in a
process of their own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from k2_dagster.cli.common import emit, json_option, settings
from k2_dagster.cli.exits import FINDING
from k2_dagster.errors import K2Error, TerminalError, TransientError
from k2_dagster.schemas.datasets import TABLES, dataset_named
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import Settings, as_environment

# The largest partitions are read in minutes; a check that takes longer hangs.
CHECK_TIMEOUT_SECONDS = 1_800.0
# Where `k2 dev` and `make demo` keep Dagster's instance, below the home.
INSTANCE_FOLDER = "dagster"
# What its code server was told of checks, written by the same.
CHECKS_FILE = "checks.env"
DAY_FORMAT = "%Y-%m-%d"
SHOWN = ("check", "passed", "severity", "summary")


@click.group()
def check() -> None:
    """Asset checks: gaps, accounting, identity, order, freshness, schema, rules."""


@check.command()
@click.option("--table", required=True, type=click.Choice(sorted(TABLES)), help="Table of `market_data`.")
@click.option("--exchange", required=True, help="Exchange of the profiles.")
@click.option("--day", type=click.DateTime([DAY_FORMAT]), help="UTC day; today without it.")
@json_option
@click.pass_context
def run(context: click.Context, table: str, exchange: str, day: datetime | None, as_json: bool) -> None:
    """Check one partition. Exit status 1 when a check does not pass.

    Where Dagster runs (DAGSTER_HOME, or the home's folder `dagster`), the outcome shows in its UI too, and is judged by
    the freshness target that Dagster was started with.
    """
    chosen = settings()
    load_profiles(chosen.profiles).exchange(exchange)
    answer = run_checks(chosen, dataset_named(table).name, exchange, (day or datetime.now(UTC)).strftime(DAY_FORMAT))
    found: Sequence[Mapping[str, Any]] = answer["checks"]
    emit(found, as_json, columns=SHOWN)
    failed = [str(one["check"]) for one in found if not one["passed"]]
    where = "recorded in Dagster" if answer["recorded"] else "not recorded: no Dagster here"
    click.echo(f"{len(found)} checks, {len(failed)} not passed ({where})", err=True)
    context.exit(FINDING if failed else 0)


def run_checks(chosen: Settings, table: str, exchange: str, day: str) -> dict[str, Any]:
    """Run the checks in a process of their own. `checks` of the answer has one object per check.

    Raises TransientError or TerminalError with what the process said.
    """
    environment = {**os.environ, **as_environment(chosen)}
    instance = chosen.home.absolute() / INSTANCE_FOLDER
    if "DAGSTER_HOME" not in environment and (instance / "dagster.yaml").is_file():
        environment["DAGSTER_HOME"] = str(instance)
        environment |= {name: value for name, value in _told(instance).items() if name not in os.environ}
    command = [sys.executable, "-m", "k2_dagster.jobs", "--table", table, "--exchange", exchange, "--day", day]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=CHECK_TIMEOUT_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TransientError(f"the checks took longer than {CHECK_TIMEOUT_SECONDS:.0f} s") from error
    return _answer(done.stdout, done.stderr)


def _told(instance: Path) -> dict[str, str]:
    """What the instance's code server judges by, which may be other than the settings of this shell."""
    try:
        lines = (instance / CHECKS_FILE).read_text().splitlines()
    except FileNotFoundError:
        return {}
    return dict(line.split("=", 1) for line in lines)


def _answer(stdout: str, stderr: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise TerminalError(f"the checks ended without an answer:\n{stderr[-2000:]}") from error
    if "error" in document:
        kind: type[K2Error] = TransientError if document["transient"] else TerminalError
        raise kind(document["error"], advice=document["advice"])
    return document
