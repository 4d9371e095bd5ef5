"""`k2 status`: where every stream stands."""

import click

from k2_dagster.cli.common import emit, json_option, settings
from k2_dagster.cli.exits import FINDING
from k2_dagster.ingest.status import SHOWN, as_row, stream_statuses
from k2_dagster.schemas.profiles import load_profiles


@click.command()
@click.option("--exchange", "exchanges", multiple=True, help="Only these exchanges; without it, all of the profiles.")
@click.option("--all", "show_all", is_flag=True, help="Also streams without a topic or without a message.")
@json_option
@click.pass_context
def status(context: click.Context, exchanges: tuple[str, ...], show_all: bool, as_json: bool) -> None:
    """Driver, fence, lag, last commit, quarantine and open gaps of every stream.

    Exits with 1 when a stream cannot go on; the column `problem` says why.
    """
    chosen = settings()
    profiles = load_profiles(chosen.profiles)
    names = exchanges or tuple(profiles.exchanges)
    found = [as_row(one) for one in stream_statuses(chosen, profiles, names)]
    rows = [row for row in found if show_all or row["fence"] or row["lag_messages"] or row["last_commit"]]
    emit(rows, as_json, columns=SHOWN)
    if any(row["problem"] for row in rows):
        context.exit(FINDING)
