"""`k2 dev`: the development stack on the command line."""

import json
from collections import deque
from dataclasses import asdict
from pathlib import Path

import click

from k2_dagster.devstack.dagster import DagsterParts
from k2_dagster.devstack.process import POLL_SECONDS, last_lines, wait_until
from k2_dagster.devstack.stack import PartStatus, Stack, part_status
from k2_dagster.settings import STACK_FILE, load_settings

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
@click.option("--dagster", is_flag=True, help="Dagster too: code server, daemon and UI.")
def up(brokers: str | None, s3: bool | None, dagster: bool) -> None:
    """Bring every part up, or up again: what runs is reused, what was killed comes back with its data."""
    stack = Stack(_home(), None if brokers is None else int(brokers), s3)
    stack.up(lambda line: click.echo(f"  {line}", err=True))
    if dagster:
        _dagster().up(lambda line: click.echo(f"  {line}", err=True))
    _show(_statuses())
    click.echo(f"\nwarehouse  {stack.addresses().warehouse}")
    click.echo(f"settings   {stack.home / STACK_FILE} (every k2 command reads it)")


@dev.command()
@click.option("--purge", is_flag=True, help="Remove the data too: topics, schemas, databases, warehouse.")
@click.option("--yes", is_flag=True, help="Do not ask before data are removed.")
def down(purge: bool, yes: bool) -> None:
    """End every part. The data stay for the next `k2 dev up`."""
    home = _home()
    if purge and not yes:
        click.confirm(f"Remove every topic, schema, table and database of the stack in {home}?", abort=True)
    if load_settings().dagster_uri is not None:
        _dagster().down(purge=purge)
    Stack(home).down(purge=purge)
    click.echo(f"the stack in {home} is down" + (", its data are removed" if purge else "; its data are kept"))


@dev.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, one document.")
def status(as_json: bool) -> None:
    """What each part does, where it is and what it costs. Exit status 1 unless every part runs."""
    parts = _statuses()
    if as_json:
        click.echo(json.dumps([asdict(part) | {"log": str(part.log)} for part in parts], indent=2))
    elif parts:
        _show(parts)
    else:
        click.echo("no stack here; `k2 dev up` makes one")
    if not parts or any(part.state != "running" for part in parts):
        raise SystemExit(1)


@dev.command()
@click.argument("part", required=False)
@click.option("--lines", default=LOG_LINES, show_default=True, help="How many of the last lines.")
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until Ctrl-C (one part).")
def logs(part: str | None, lines: int, follow: bool) -> None:
    """The last log lines of one PART, or of each."""
    stack = Stack(_home())
    if follow and part is None:
        raise click.UsageError("--follow needs a part: " + ", ".join(stack.part_names()))
    for name in [part] if part else stack.part_names():
        click.secho(f"== {name}: {stack.logs(name)}", bold=True, err=True)
        click.echo(last_lines(stack.logs(name), lines))
    if follow and part is not None:
        _follow(stack.logs(part))


def _dagster() -> DagsterParts:
    chosen = load_settings()
    return DagsterParts(chosen.home, chosen)


def _statuses() -> list[PartStatus]:
    """The stack's parts, and Dagster's where it was brought up."""
    parts = Stack(_home()).status()
    if parts and load_settings().dagster_uri is not None:
        dagster = _dagster()
        if dagster.workspace.exists():
            parts += [part_status(part) for part in dagster.parts]
    return parts


def _home() -> Path:
    return load_settings().home


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
