"""`k2 gaps`: what is missing, one by one."""

from contextlib import closing
from typing import Any, get_args

import click

from k2_dagster.cli.common import Time, emit, emit_one, json_option, settings
from k2_dagster.coverage.explaining import explained, what_to_do
from k2_dagster.errors import QueryRefused
from k2_dagster.state.database import Database
from k2_dagster.state.gap_states import GapState
from k2_dagster.state.gaps import GapFilter, read_gap, read_gaps

LISTED = (
    *("id", "state", "level", "exchange", "dataset", "stream", "symbol", "numbering", "session", "channel"),
    *("first_sequence", "last_sequence", "missing", "filled", "quarantined", "cause", "from_time", "to_time"),
)
DEFAULT_LIMIT = 100
LEVELS = ("warn", "page", "halt")


@click.group(invoke_without_command=True)
@click.option("--exchange", help="Only this exchange.")
@click.option("--dataset", help="Only this dataset.")
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
    wanted = GapFilter(**chosen, day=None if day is None else day.date().isoformat())
    with closing(Database(settings())) as database, database.begin() as connection:
        found = read_gaps(connection, wanted, newest=limit)
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
        found = read_gap(connection, gap)
    if found is None:
        raise QueryRefused(f"there is no gap {gap}", advice="`k2 gaps` lists those on record")
    if as_json:
        emit_one({**found, "what_to_do": what_to_do(found)}, as_json)
        return
    emit_one(explained(found), as_json)
