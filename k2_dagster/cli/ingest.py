"""`k2 ingest`: the drain loop as a process, and an operator's decisions about what it cannot decide."""

import getpass
import sys
import threading
from collections.abc import Sequence
from contextlib import closing, suppress

import click

from k2_dagster.cli.common import emit, json_option, settings
from k2_dagster.cli.ending import end_when_stopped
from k2_dagster.cli.exits import FINDING
from k2_dagster.cli.stopping import stop_on_signals
from k2_dagster.errors import ConfigurationError, K2Error, LossUnseen, SchemaUnknown, TransientError
from k2_dagster.ingest.commit import CommitReport
from k2_dagster.ingest.drain import drain_exchange
from k2_dagster.ingest.losses import accept_losses, losses_token, seen_losses
from k2_dagster.ingest.process import run
from k2_dagster.kafka.registry import Registry
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.refused_schemas import refuse_schema, withdraw_refusal


@click.group(invoke_without_command=True)
@click.option("--exchange", "exchanges", multiple=True, help="Exchanges to drive; without it, all of the profiles.")
@click.option("--until-caught-up", is_flag=True, help="Land what is there now and end, as one Dagster run does.")
@click.pass_context
def ingest(context: click.Context, exchanges: tuple[str, ...], until_caught_up: bool) -> None:
    """Land the messages of exchanges in the tables, under a lease, until SIGTERM or Ctrl-C.

    A stream in trouble is tried again by itself, the others go on. SIGTERM ends it within seconds, behind the commit in
    hand, whichever server is away.
    """
    if context.invoked_subcommand is not None:
        return
    chosen = settings()
    profiles = load_profiles(chosen.profiles)
    names = exchanges or tuple(profiles.exchanges)
    for name in names:
        profiles.exchange(name)
    work = _until_caught_up if until_caught_up else _until_stopped
    with stop_on_signals() as stop:
        end_when_stopped(lambda: work(chosen, profiles, names, stop.asked), stop.asked)


def _until_stopped(chosen: Settings, profiles: Profiles, exchanges: Sequence[str], stop: threading.Event) -> None:
    report = run(chosen, profiles, exchanges, stop, _say)
    for stream, error in report.troubled.items():
        click.echo(f"{stream} was in trouble: {error}", err=True)


def _until_caught_up(chosen: Settings, profiles: Profiles, exchanges: Sequence[str], stop: threading.Event) -> None:
    """Every exchange; what keeps one from draining is raised at the end."""
    errors: list[K2Error] = []
    for name in exchanges:
        if stop.is_set():
            break
        try:
            drain_exchange(chosen, profiles, name, cap_seconds=None, stop=stop, run_id="cli", on_commit=_say)
        except K2Error as error:
            errors.append(error)
            click.echo(f"{name}: {error.message}", err=True)
    if errors:
        # a terminal one first: its exit status says that retrying does not help
        raise min(errors, key=lambda one: isinstance(one, TransientError))


@ingest.command("accept-loss")
@click.option("--exchange", required=True, help="Exchange of the stream.")
@click.option("--dataset", required=True, type=click.Choice(sorted(WIRE_DATASETS)), help="Dataset of the stream.")
@click.option("--by", "accepted_by", default=getpass.getuser, show_default="the user", help="Who accepts it.")
@click.option("--reason", required=True, help="Why; it stays on record.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--expect", "token", help="Accept exactly the losses that were shown with this token, and do not ask.")
@json_option
@click.pass_context
def accept_loss(
    context: click.Context,
    exchange: str,
    dataset: str,
    accepted_by: str,
    reason: str,
    yes: bool,
    token: str | None,
    as_json: bool,
) -> None:
    """Accept that Kafka lost messages before they landed, and go on behind them.

    Shows which offsets, then asks; without a terminal nothing is accepted unless --yes or --expect says so. They stay
    on record with the name and the reason, and `k2 verify` counts them apart. What else was lost meanwhile is refused.
    """
    chosen = settings()
    seen = seen_losses(chosen, exchange, dataset)
    shown = losses_token(seen)
    if not seen:
        click.echo(f"{exchange}/{dataset}: nothing is lost", err=True)
        if as_json:
            emit([], as_json)
        return
    for one in seen:
        click.echo(f"lost: {one}", err=True)
    click.echo(f"token of these losses: {shown}", err=True)
    if token is not None and token != shown:
        raise LossUnseen(f"--expect was {token!r}, the losses now are {shown!r}", advice="look at what is lost now")
    if token is None and not yes and not _agreed():
        if as_json:
            emit([], as_json)
        context.exit(FINDING)
    rows = accept_losses(chosen, exchange, dataset, accepted_by=accepted_by, reason=reason, expected=seen)
    emit(rows, as_json)


def _agreed() -> bool:
    """Whether the person at the terminal accepts what was shown; nobody there does not."""
    if not sys.stdin.isatty():
        click.echo("nothing was accepted: add --yes, or --expect with the token", err=True)
        return False
    return click.confirm("Accept these losses for ever?", err=True)


@ingest.command("refuse-schema")
@click.argument("schema_id", type=click.IntRange(0, 2**32 - 1))
@click.option("--by", "accepted_by", default=getpass.getuser, show_default="the user", help="Who refuses it.")
@click.option("--reason", required=True, help="Why; it stays on record.")
def refuse(schema_id: int, accepted_by: str, reason: str) -> None:
    """Send messages that name SCHEMA_ID to quarantine: the registry does not know it and nobody will register it.

    An id that the registry knows is not refused.
    """
    chosen = settings()
    with closing(Registry(chosen)) as registry:
        _refuse_known(registry, schema_id)
    with closing(Database(chosen)) as database:
        refuse_schema(database, schema_id, accepted_by=accepted_by, reason=reason)
    click.echo(f"messages of schema {schema_id} go to quarantine within seconds")


@ingest.command("accept-schema")
@click.argument("schema_id", type=click.IntRange(0, 2**32 - 1))
@click.option("--by", "withdrawn_by", default=getpass.getuser, show_default="the user", help="Who accepts it.")
@click.option("--reason", required=True, help="Why; it stays on record.")
def accept(schema_id: int, withdrawn_by: str, reason: str) -> None:
    """Take messages that name SCHEMA_ID again: the registry knows it now. `k2 quarantine reprocess` sends the old ones.

    A stream whose registry does not know it waits, as before it was refused.
    """
    with closing(Database(settings())) as database:
        was_refused = withdraw_refusal(database, schema_id, withdrawn_by=withdrawn_by, reason=reason)
    if not was_refused:
        raise ConfigurationError(
            f"schema {schema_id} is not refused", advice="`k2 ingest refuse-schema` refuses one; nothing was changed"
        )
    click.echo(f"messages of schema {schema_id} are decoded again")


def _refuse_known(registry: Registry, schema_id: int) -> None:
    """A typing mistake must not send good messages to quarantine."""
    with suppress(SchemaUnknown):
        registry.schema(schema_id)
        raise ConfigurationError(
            f"schema {schema_id} is registered: its messages are decoded, and none of them waits for it",
            advice="`k2 status` names the id that a stream waits for; nothing was changed",
        )


def _say(commit: CommitReport) -> None:
    click.echo(
        f"{commit.exchange}/{commit.dataset}: {commit.rows:,} rows, {commit.quarantined:,} quarantined, "
        f"{commit.commit_seconds * 1000:.0f} ms, {commit.lag_messages:,} behind"
    )
