"""`k2 status`: where every stream stands."""

import click

from k2_dagster.cli.common import emit, json_option, settings
from k2_dagster.cli.exits import FINDING
from k2_dagster.ingest.status import as_row, in_trouble, is_in_use, stream_statuses
from k2_dagster.schemas.profiles import load_profiles

COLUMNS = (
    *("exchange", "dataset", "driver", "state", "fence", "lag_messages", "lag_seconds", "held_messages", "rows"),
    *("quarantined", "open_gaps", "last_commit", "breaker", "since", "problem"),
)


@click.command()
@click.option("--exchange", "exchanges", multiple=True, help="Only these exchanges; without it, all of the profiles.")
@click.option("--all", "show_all", is_flag=True, help="Also streams without a topic or without a message.")
@json_option
@click.pass_context
def status(context: click.Context, exchanges: tuple[str, ...], show_all: bool, as_json: bool) -> None:
    """Driver, state, fence, lag, last commit, quarantine and gaps of every stream; with --json the fence by partition.

    Exits with 1 when a stream cannot go on: `problem` says why, `since` when whoever drives it met that first.
    """
    chosen = settings()
    profiles = load_profiles(chosen.profiles)
    found = stream_statuses(chosen, profiles, exchanges or tuple(profiles.exchanges))
    shown = [one for one in found if show_all or is_in_use(one) or (exchanges and one.problem)]
    if not shown and not as_json:
        click.echo(
            "no stream has a message yet (`k2 simulate`, `k2 play` and `k2 feed` publish); --all shows every stream"
        )
        return
    emit([as_row(one) for one in shown], as_json, columns=COLUMNS)
    if in_trouble(shown):
        context.exit(FINDING)
