"""`k2 incidents`: what is wrong, what was, and who has been told."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager

import click

from k2_dagster.alerts.listing import list_incidents, retry_deliveries, show_incident
from k2_dagster.alerts.messages import Message, identity, links_of
from k2_dagster.alerts.outbox import Outbox
from k2_dagster.alerts.targets import EXAMPLE, Target, send, targets_of
from k2_dagster.cli.common import emit, emit_one, json_option, settings
from k2_dagster.cli.exits import FINDING
from k2_dagster.errors import AlertUndelivered, ConfigurationError
from k2_dagster.state.database import Database

COLUMNS = (
    *("severity", "key", "title", "opened_at", "acknowledged_at", "resolved_at", "occurrences", "waiting"),
    *("undelivered", "problem"),
)
# Lines of a listing.
DEFAULT_LIMIT = 200
TAKEN = "taken"


@click.group()
def incidents() -> None:
    """Incidents that `k2 watch` has found, and their delivery."""


@incidents.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that are resolved and told, the newest first.")
@click.option("--limit", type=click.IntRange(1), default=DEFAULT_LIMIT, show_default=True, help="Most lines.")
@json_option
def list_(everything: bool, limit: int, as_json: bool) -> None:
    """Open incidents, the worst first, and those of which something could not be delivered yet."""
    with _database() as database:
        rows = list_incidents(database, everything=everything, limit=limit)
    if not rows and not as_json:
        click.echo("no incident is on record" if everything else "no incident is open")
        return
    emit(rows, as_json, columns=COLUMNS)


@incidents.command()
@click.argument("key")
@json_option
def show(key: str, as_json: bool) -> None:
    """Show one incident whole: text, what to do, links, and what was told to whom."""
    with _database() as database:
        emit_one(show_incident(database, key, links_of(settings())), as_json)


@incidents.command()
@click.argument("key", required=False)
@json_option
def retry(key: str | None, as_json: bool) -> None:
    """Have `k2 watch` try again at once what is not delivered, also what it gave up: of one incident, or of all."""
    with _database() as database:
        emit_one({"deliveries": retry_deliveries(database, key)}, as_json)


@incidents.command()
@click.argument("key")
@click.option("--by", "closed_by", default=getpass.getuser, show_default="the user", help="Who closes it.")
@click.option("--reason", required=True, help="Why; it is told, and stays on record.")
@json_option
def close(key: str, closed_by: str, reason: str, as_json: bool) -> None:
    """Close an incident by hand: of what is not watched any more, or what nobody will repeat.

    `k2 watch` tells that it ended. While its signal stands, it opens again.
    """
    chosen = settings()
    with _database() as database:
        told = Outbox(database, links_of(chosen)).close(key, closed_by, reason, targets_of(chosen))
        emit_one({"closed": key, "told": told.identity}, as_json)


@incidents.command()
@click.argument("key")
@click.option("--by", "acknowledged_by", default=getpass.getuser, show_default="the user", help="Who has it in hand.")
@click.option("--reason", required=True, help="What is being done; it stays on record.")
@json_option
def acknowledge(key: str, acknowledged_by: str, reason: str, as_json: bool) -> None:
    """Put on record that somebody has an incident in hand.

    Nobody is told. When it gets worse, and when it ends, everybody is, as ever.
    """
    chosen = settings()
    with _database() as database:
        told = Outbox(database, links_of(chosen)).acknowledge(key, acknowledged_by, reason)
        emit_one({"acknowledged": key, "recorded": told.identity}, as_json)


@incidents.command("test")
@json_option
@click.pass_context
def test_(context: click.Context, as_json: bool) -> None:
    """Send a test message to every address of K2_ALERT_URLS. Exits with 1 when one is not taken."""
    targets = targets_of(settings())
    if not targets:
        raise ConfigurationError("K2_ALERT_URLS is not set", advice=f"valid: {EXAMPLE}")
    rows = [{"target": one.name, "from": one.least, "answer": _try(one)} for one in targets]
    emit(rows, as_json)
    if any(row["answer"] != TAKEN for row in rows):
        context.exit(FINDING)


def _try(target: Target) -> str:
    title, body = (
        "[test] K2 can tell you of incidents",
        f"`k2 incidents test` was called.\nIncident: {identity('test', 0)}",
    )
    try:
        send(target, Message("test", 0, "opened", "warning", title, body))
    except AlertUndelivered as error:
        return error.message
    return TAKEN


@contextmanager
def _database() -> Iterator[Database]:
    database = Database(settings())
    try:
        yield database
    finally:
        database.close()
