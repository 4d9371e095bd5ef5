"""`k2 gaps`: what is missing, one by one."""

import getpass
from contextlib import closing
from datetime import UTC
from typing import Any, get_args

import click
from sqlalchemy import Connection

from k2_dagster.cli.common import Time, emit, emit_one, json_option, refuse_unknown_exchange, settings
from k2_dagster.coverage.explaining import explained, what_to_do
from k2_dagster.errors import QueryRefused
from k2_dagster.feeds.recovery.asking import ask_for
from k2_dagster.feeds.recovery.deciding import request_id
from k2_dagster.feeds.recovery.sending import Sender
from k2_dagster.feeds.recovery_sources import recovery_of
from k2_dagster.kafka.registry import Registry
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.state.database import Database
from k2_dagster.state.gap_states import GapState
from k2_dagster.state.gaps import GapFilter, read_gap, read_gaps, record_event
from k2_dagster.state.recoveries import count_attempts

LISTED = (
    *("id", "state", "level", "exchange", "dataset", "stream", "symbol", "numbering", "session", "channel"),
    *("first_sequence", "last_sequence", "missing", "filled", "quarantined", "attempts", "cause"),
    *("from_time", "to_time"),
)
DEFAULT_LIMIT = 100
LEVELS = ("warn", "page", "halt")


@click.group(invoke_without_command=True)
@click.option("--exchange", help="Only this exchange.")
@click.option("--dataset", type=click.Choice(sorted(WIRE_DATASETS)), help="Only this dataset.")
@click.option("--stream", help="Only this stream.")
@click.option("--symbol", help="Only this symbol.")
@click.option("--state", type=click.Choice(get_args(GapState)), help="Only in this state.")
@click.option("--level", type=click.Choice(LEVELS), help="Only of this level.")
@click.option("--day", type=Time(), help="Only of this UTC event day, as 2026-03-01.")
@click.option("--limit", type=click.IntRange(1), default=DEFAULT_LIMIT, show_default=True, help="Most lines.")
@json_option
@click.pass_context
def gaps(context: click.Context, /, limit: int, as_json: bool, day: Any, **chosen: Any) -> None:
    """List gaps, the newest last; `k2 gaps show ID` explains one.

    A gap is numbers that did not come within their grace, whatever became of them: `open`, `requested`, `filled`,
    `expired` or `accepted`.
    """
    if context.invoked_subcommand is not None:
        return
    wanted = GapFilter(**chosen, day=None if day is None else day.astimezone(UTC).date().isoformat())
    chosen_settings = settings()
    with closing(Database(chosen_settings)) as database, database.begin() as connection:
        rows = read_gaps(connection, wanted, newest=limit)
        attempts = count_attempts(connection, [one["id"] for one in rows])
    if not rows:
        refuse_unknown_exchange(chosen_settings, wanted.exchange)
    found = [{**one, "attempts": attempts.get(one["id"], 0)} for one in rows]
    if as_json:
        emit(found, as_json)
        return
    if not found:
        click.echo("no gap on record is like that")
        return
    emit(found, as_json, columns=LISTED)


@gaps.command()
@click.argument("gap", metavar="ID", type=click.IntRange(1))
@json_option
def show(gap: int, as_json: bool) -> None:
    """Explain one gap: what is missing, between which messages, what was tried, what to do."""
    with closing(Database(settings())) as database, database.begin() as connection:
        found = _gap_of(connection, gap)
    if as_json:
        emit_one({**found, "what_to_do": what_to_do(found)}, as_json)
        return
    emit_one(explained(found), as_json)


@gaps.command()
@click.argument("gap_ids", metavar="ID...", type=click.IntRange(1), nargs=-1, required=True)
@click.option("--by", default=getpass.getuser, show_default="the user", help="Who wishes it.")
@click.option("--reason", default="", help="Why; it is kept with the gap.")
@json_option
def request(gap_ids: tuple[int, ...], by: str, reason: str, as_json: bool) -> None:
    """Ask for the missing numbers of gaps of any level, also of one that was given up.

    The request goes to the exchange's topic `market.recovery.EXCHANGE`, where `k2 recover` serves it.
    """
    chosen = settings()
    profiles = load_profiles(chosen.profiles)
    done = []
    with closing(Database(chosen)) as database, closing(Registry(chosen)) as registry:
        with database.begin() as connection:
            found = [_gap_of(connection, one) for one in gap_ids]
        for exchange in {str(one["exchange"]) for one in found}:
            recovery_of(profiles, exchange)
        for gap in found:
            with Sender(chosen, profiles, gap["exchange"], registry) as sender:
                attempt = ask_for(database, sender, gap, by=by, reason=reason)
            done.append({"gap": gap["id"], "attempt": attempt, "request": request_id(gap, attempt)})
    emit(done, as_json)


@gaps.command()
@click.argument("gap_ids", metavar="ID...", type=click.IntRange(1), nargs=-1, required=True)
@click.option("--by", default=getpass.getuser, show_default="the user", help="Who decides.")
@click.option("--reason", required=True, help="Why; it is kept with the gap.")
@json_option
def accept(gap_ids: tuple[int, ...], by: str, reason: str, as_json: bool) -> None:
    """Go on without the missing numbers of gaps: they are not asked for any more, and nobody is told of them.

    They stay missing: a range that touches such a gap is not complete.
    """
    with closing(Database(settings())) as database, database.begin() as connection:
        for one in gap_ids:
            _gap_of(connection, one)
        states = [record_event(connection, one, "accept", by=by, note=reason) for one in gap_ids]
    emit([{"gap": one, "state": state} for one, state in zip(gap_ids, states, strict=True)], as_json)


def _gap_of(connection: Connection, gap_id: int) -> dict[str, Any]:
    found = read_gap(connection, gap_id)
    if found is None:
        raise QueryRefused(f"there is no gap {gap_id}", advice="`k2 gaps` lists those on record")
    return found
