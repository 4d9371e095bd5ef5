"""`k2 dev`: the development stack on the command line."""

import json
import os
import shutil
from collections import deque
from dataclasses import asdict
from pathlib import Path

import click

from k2_dagster.cli.exits import FINDING
from k2_dagster.devstack.dagster import DagsterParts
from k2_dagster.devstack.downloads import cache_folder
from k2_dagster.devstack.files import last_lines
from k2_dagster.devstack.part import Part
from k2_dagster.devstack.process import POLL_SECONDS, wait_until
from k2_dagster.devstack.stack import PartStatus, Stack, part_status
from k2_dagster.errors import ConfigurationError
from k2_dagster.settings import STACK_FILE, Settings, load_settings, stack_settings

LOG_LINES = 40
"""Lines of each log that `k2 dev logs` shows unless told otherwise: a screen."""


@click.group()
def dev() -> None:
    """The development stack: a real Kafka, schema registry and PostgreSQL, without Docker or Java installed."""


@dev.command()
@click.option(
    "--brokers", type=click.Choice(["1", "3"]), help="Kafka brokers; 3 replicate and survive the loss of one."
)
@click.option("--s3/--no-s3", default=None, help="Put the warehouse on a local S3 server instead of a folder.")
@click.option(
    "--dagster/--no-dagster",
    default=None,
    help="Dagster too: code server, daemon and UI. Without either: where it was brought up before.",
)
@click.pass_context
def up(context: click.Context, brokers: str | None, s3: bool | None, dagster: bool | None) -> None:
    """Bring every part up, or up again: what runs is reused, what was killed comes back with its data.

    Exit status 1 if a part does not run in the end. Ctrl-C ends it within two seconds; what was started runs on.
    """
    chosen = stack_settings()
    home = chosen.home
    stack = Stack(home, None if brokers is None else int(brokers), s3, chosen.maven_repository)
    try:
        stack.up(_tell)
        if dagster or (dagster is None and DagsterParts(home).exists):
            DagsterParts(home, _dagster_settings()).up(_tell)
    except KeyboardInterrupt:
        running = ", ".join(part.name for part in _parts(stack) if part.find() is not None)
        click.echo(f"these parts run: {running or 'none'}; `k2 dev up` goes on, `k2 dev down` ends them", err=True)
        raise
    statuses = _statuses(stack)
    _show(statuses)
    click.echo(f"\nwarehouse  {stack.addresses().warehouse}")
    click.echo(f"settings   {stack.home / STACK_FILE} (every k2 command reads it)")
    # Told not to bring Dagster up, its parts may be down
    wanted = [one for one in statuses if dagster is not False or not one.name.startswith("dagster")]
    context.exit(FINDING if any(one.state != "running" for one in wanted) else 0)


@dev.command()
@click.option("--purge", is_flag=True, help="Remove the data too: topics, schemas, databases, warehouse.")
@click.option("--downloads", is_flag=True, help="With --purge: the downloads too, which all stacks share.")
@click.option("--yes", is_flag=True, help="Do not ask before data are removed.")
def down(purge: bool, downloads: bool, yes: bool) -> None:
    """End every part. The data stay for the next `k2 dev up`; it asks where they cannot (a warehouse in memory)."""
    if downloads and not purge:
        raise click.UsageError("--downloads goes with --purge")
    home = stack_settings().home
    stack, dagster = Stack(home), DagsterParts(home)
    if not stack.exists:
        click.echo(f"there is no stack in {stack.home}: nothing to end")
    else:
        _confirm(stack, purge, yes)
        lost = stack.loses_objects
        dagster.down(purge=purge, progress=_tell)
        stack.down(purge=purge, progress=_tell)
        click.echo(f"the stack in {stack.home} is down; {_what_of_the_data(purge, lost)}")
    if downloads:
        shutil.rmtree(cache_folder(), ignore_errors=True)
        click.echo(f"the downloads in {cache_folder()} are removed")
    elif purge and cache_folder().exists():
        click.echo(f"downloads stay in {cache_folder()} for the next stack; --downloads removes them")


def _confirm(stack: Stack, purge: bool, yes: bool) -> None:
    if yes:
        return
    if purge:
        click.confirm(f"Remove every topic, schema, table and database of the stack in {stack.home}?", abort=True)
    elif stack.loses_objects:
        click.echo("The S3 server is moto, which keeps objects in memory: the tables go when it ends.", err=True)
        click.confirm("Lose the warehouse and its databases (topics and schemas stay)?", abort=True)


def _what_of_the_data(purge: bool, lost: bool) -> str:
    if purge:
        return "its data are removed"
    if lost:
        return "its warehouse and databases are gone; topics and schemas are kept"
    return "its data are kept"


@dev.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, one document.")
def status(as_json: bool) -> None:
    """What each part does, where it is and what it costs. Exit status 1 unless every part runs."""
    parts = _statuses(Stack(stack_settings().home))
    if as_json:
        click.echo(json.dumps([asdict(part) | {"log": str(part.log)} for part in parts], indent=2))
    elif parts:
        _show(parts)
    else:
        click.echo("no stack here; `k2 dev up` makes one")
    if not parts or any(part.state != "running" for part in parts):
        raise SystemExit(FINDING)


@dev.command()
@click.argument("part", required=False)
@click.option(
    "--lines", type=click.IntRange(min=1), default=LOG_LINES, show_default=True, help="How many of the last lines."
)
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until Ctrl-C (one part).")
def logs(part: str | None, lines: int, follow: bool) -> None:
    """The last log lines of one PART, or of each; Dagster's parts too, where it was brought up."""
    stack = Stack(stack_settings().home)
    if not stack.exists:
        stack.addresses()  # says that there is no stack
    files = {one.name: one.log for one in _parts(stack)}
    if follow and part is None:
        raise click.UsageError("--follow needs a part: " + ", ".join(files))
    if part is not None and part not in files:
        raise ConfigurationError(f"the stack has no part {part!r}", advice=f"choose one of {', '.join(files)}")
    for name in [part] if part else files:
        click.secho(f"== {name}: {files[name]}", bold=True, err=True)
        click.echo(last_lines(files[name], lines))
    if follow and part is not None:
        _follow(files[part])


def _tell(line: str) -> None:
    click.echo(f"  {line}", err=True)


def _dagster_settings() -> Settings:
    """Those of the commands; where the environment names none for Dagster, those of the stack."""
    chosen = load_settings()
    if chosen.dagster_uri is not None:
        return chosen
    return load_settings(dict(os.environ) | Stack(chosen.home).settings_environment())


def _parts(stack: Stack) -> list[Part]:
    """The stack's parts, and Dagster's where it was brought up."""
    dagster = DagsterParts(stack.home)
    return [*stack.parts(), *(dagster.parts if dagster.exists else [])]


def _statuses(stack: Stack) -> list[PartStatus]:
    dagster = DagsterParts(stack.home)
    own = stack.status()
    return own + [part_status(part) for part in dagster.parts] if own and dagster.exists else own


def _show(parts: list[PartStatus]) -> None:
    rows = [("part", "state", "pid", "MB", "address")]
    rows += [(p.name, p.state, str(p.pid or "-"), f"{p.rss_megabytes:.0f}", p.address) for p in parts]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for name, state, pid, megabytes, address in rows:
        left = f"{name:{widths[0]}}  {state:{widths[1]}}  {pid:>{widths[2]}}  {megabytes:>{widths[3]}}"
        click.echo(f"{left}  {address}")
    click.echo(f"{'all':{widths[0]}}  {'':{widths[1]}}  {'':{widths[2]}}  {sum(p.rss_megabytes for p in parts):.0f}")


def _follow(path: Path) -> None:
    """Echo what is added to the file until the user interrupts."""
    with path.open(errors="replace") as file:
        deque(file, maxlen=0)
        while True:
            wait_until(lambda: path.stat().st_size != file.tell(), timeout_seconds=POLL_SECONDS * 20)
            click.echo(file.read(), nl=False)
