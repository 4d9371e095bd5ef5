"""`k2 watch`: what is wrong becomes incidents, and people are told; a process outside Dagster."""

import threading

import click

from k2_dagster.cli.common import settings
from k2_dagster.cli.ending import end_when_stopped
from k2_dagster.cli.stopping import stop_on_signals
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.settings import Settings
from k2_dagster.watch.composition import opened_watch


@click.command()
@click.option("--once", is_flag=True, help="Look once, tell what is to be told, and end.")
def watch(once: bool) -> None:
    """Watch failed checks and runs, dead daemons and processes, halted and late streams, until SIGTERM or Ctrl-C.

    What is wrong becomes incidents (`k2 incidents list`), delivered to K2_ALERT_URLS. Two of these at once do not tell
    twice: one stands by. Run it outside Dagster, and have K2_ALERT_HEARTBEAT_URL alarm when it is gone itself.
    """
    chosen = settings()
    profiles = load_profiles(chosen.profiles)
    with stop_on_signals() as stop:
        end_when_stopped(lambda: _work(chosen, profiles, once, stop.asked), stop.asked)


def _work(chosen: Settings, profiles: Profiles, once: bool, stop: threading.Event) -> None:
    with opened_watch(chosen, profiles, stop, settled=once) as opened:
        if not once:
            opened.run(stop, chosen.alert_interval_seconds)
            return
        done = opened.round()
        if done is None:
            click.echo("another `k2 watch` leads: nothing was done")
            return
        for one in done.told:
            click.echo(f"{one.transition:9} {one.title} ({one.identity})")
        click.echo(f"{done.delivered.sent} delivered, {done.delivered.failed} not delivered")
