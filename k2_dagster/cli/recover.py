"""`k2 recover`: ask for what is missing, and publish what the venue gives again."""

import logging
import threading
from contextlib import closing

import click

from k2_dagster.cli.common import json_option, settings, to_json
from k2_dagster.cli.ending import end_when_stopped
from k2_dagster.cli.stopping import Stop, stop_on_signals
from k2_dagster.feeds.recovery.leased import recovery_lease
from k2_dagster.feeds.recovery.worker import RecoveryReport, Worker
from k2_dagster.feeds.recovery_sources import open_source, recovery_of
from k2_dagster.observability.printable import printable
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.settings import Settings

logger = logging.getLogger(__name__)


@click.command()
@click.argument("exchange")
@click.option("--once", is_flag=True, help="Ask for what is due, serve what is asked for, and end.")
@json_option
def recover(exchange: str, once: bool, as_json: bool) -> None:
    """Get missing messages of EXCHANGE again, until SIGTERM or Ctrl-C.

    Gaps that page are asked for by themselves, others with `k2 gaps request`. What comes is published to the topics
    that it was missed on, lands late and fills its gap. The profile says what gives it. One process at a time has an
    exchange: a second one ends and names the first.
    """
    chosen = settings()
    profiles = load_profiles(chosen.profiles)
    report = RecoveryReport(exchange, recovery_of(profiles, exchange).source)
    with stop_on_signals() as stop:
        end_when_stopped(lambda: _work(chosen, profiles, report, stop, once=once, as_json=as_json), stop.asked)


def _work(
    chosen: Settings, profiles: Profiles, report: RecoveryReport, stop: Stop, *, once: bool, as_json: bool
) -> None:
    try:
        _recover(chosen, profiles, report, stop, once=once)
    finally:
        _show(report, as_json)


def _recover(chosen: Settings, profiles: Profiles, report: RecoveryReport, stop: Stop, *, once: bool) -> None:
    asked: threading.Event = stop.asked
    with (
        recovery_lease(chosen, report.exchange, asked) as may_go_on,
        closing(open_source(chosen, profiles, report.exchange, asked)) as source,
        Worker(
            chosen,
            profiles,
            report.exchange,
            source,
            report=report,
            stop=asked,
            waiting=stop.waiting,
            may_go_on=may_go_on,
        ) as worker,
    ):
        if once:
            worker.once()
        else:
            logger.info("recovery begins", extra={"exchange": report.exchange, "source": report.source})
            worker.run()


def _show(report: RecoveryReport, as_json: bool) -> None:
    if as_json:
        click.echo(to_json(report.as_document()))
        return
    served = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(report.outcomes.items())) or "none"
    click.echo(
        f"{report.exchange} by {report.source}: {report.asked:,} asked for, served: {served}; "
        f"{report.published:,} messages published, {report.expired:,} gaps given up"
    )
    for one in report.last:
        click.echo(f"  gap {one.gap_id}: {one.outcome}: {printable(one.note)}")
