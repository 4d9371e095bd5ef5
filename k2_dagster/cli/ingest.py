"""`k2 ingest`: the drain loop as a process, and an operator's decisions about what it cannot decide."""

import getpass

import click

from k2_dagster.cli.common import emit_one, json_option, settings
from k2_dagster.cli.stopping import stop_on_signals
from k2_dagster.ingest.commit import CommitReport
from k2_dagster.ingest.drain import drain_exchange
from k2_dagster.ingest.losses import accept_losses
from k2_dagster.ingest.process import run
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.state.database import Database
from k2_dagster.state.refused_schemas import refuse_schema


@click.group(invoke_without_command=True)
@click.option("--exchange", "exchanges", multiple=True, help="Exchanges to drive; without it, all of the profiles.")
@click.option("--until-caught-up", is_flag=True, help="Land what is there now and end, as one Dagster run does.")
@click.pass_context
def ingest(context: click.Context, exchanges: tuple[str, ...], until_caught_up: bool) -> None:
    """Land the messages of exchanges in the tables, under a lease, until SIGTERM or Ctrl-C.

    A commit is never cut short: the process ends at the next commit boundary, within seconds.
    """
    if context.invoked_subcommand is not None:
        return
    chosen = settings()
    profiles = load_profiles(chosen.profiles)
    names = exchanges or tuple(profiles.exchanges)
    for name in names:
        profiles.exchange(name)
    with stop_on_signals() as stop:
        if until_caught_up:
            for name in names:
                drain_exchange(chosen, profiles, name, cap_seconds=None, stop=stop.asked, run_id="cli", on_commit=_say)
            return
        report = run(chosen, profiles, names, stop.asked, _say)
    for stream, error in report.halted.items():
        click.echo(f"{stream} halted: {error}", err=True)
    if report.halted:
        raise next(iter(report.halted.values()))


@ingest.command("accept-loss")
@click.option("--exchange", required=True, help="Exchange of the stream.")
@click.option("--dataset", required=True, help="Dataset of the stream.")
@click.option("--by", "accepted_by", default=getpass.getuser, show_default="the user", help="Who accepts it.")
@click.option("--reason", required=True, help="Why; it stays on record.")
@json_option
def accept_loss(exchange: str, dataset: str, accepted_by: str, reason: str, as_json: bool) -> None:
    """Accept that Kafka lost messages before they landed, and go on behind them.

    Says which offsets; they stay on record with the name and the reason, and `k2 verify` counts them apart.
    """
    chosen = settings()
    profiles = load_profiles(chosen.profiles)
    profiles.exchange(exchange)
    losses = accept_losses(chosen, exchange, dataset, accepted_by=accepted_by, reason=reason)
    for loss in losses:
        emit_one(loss, as_json)
    if not losses:
        click.echo(f"{exchange}/{dataset}: nothing is lost", err=True)


@ingest.command("refuse-schema")
@click.argument("schema_id", type=click.IntRange(0, 2**32 - 1))
@click.option("--by", "accepted_by", default=getpass.getuser, show_default="the user", help="Who refuses it.")
@click.option("--reason", required=True, help="Why; it stays on record.")
def refuse(schema_id: int, accepted_by: str, reason: str) -> None:
    """Send messages that name SCHEMA_ID to quarantine: the registry does not know it and nobody will register it."""
    database = Database(settings())
    try:
        refuse_schema(database, schema_id, accepted_by=accepted_by, reason=reason)
    finally:
        database.close()
    click.echo(f"messages of schema {schema_id} go to quarantine from the next run on")


def _say(commit: CommitReport) -> None:
    click.echo(
        f"{commit.exchange}/{commit.dataset}: {commit.rows:,} rows, {commit.quarantined:,} quarantined, "
        f"{commit.commit_seconds * 1000:.0f} ms, {commit.lag_messages:,} behind"
    )
