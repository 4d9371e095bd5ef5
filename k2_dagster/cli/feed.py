"""`k2 feed`: a venue's live market data into Kafka."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from k2_dagster.cli.common import Finite, json_option, settings, to_json
from k2_dagster.cli.progress import ProgressLine, progress_line
from k2_dagster.cli.published import rows_text, without_rows
from k2_dagster.cli.stopping import Stop, exit_interrupted, stop_on_signals, telling_how_far
from k2_dagster.feeds.live.feed import feed
from k2_dagster.feeds.live.report import DefinitionsReport, FeedReport
from k2_dagster.feeds.live.serving import FeedPlan
from k2_dagster.feeds.live.skew import Skew
from k2_dagster.feeds.live.venue import Venue
from k2_dagster.feeds.live.venues import VENUES
from k2_dagster.schemas.common import NAME_PATTERN
from k2_dagster.schemas.profiles import load_profiles


class Symbols(click.ParamType[tuple[str, ...]]):
    """Names separated by commas, in capitals as all venues write them."""

    name = "A,B,.."

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Fails with what would be valid."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(name.strip().upper() for name in value.split(",")))
        for name in names:
            if not re.fullmatch(NAME_PATTERN, name):
                self.fail(
                    f"{name!r} is no symbol; valid: as the venue writes them, such as BTCUSDT,ETHUSDT", param, ctx
                )
        return names


class Address(click.ParamType[str]):
    """An address of one of these schemes."""

    def __init__(self, *schemes: str) -> None:
        self.name = f"{schemes[0]}://.."
        self._schemes = schemes

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Fails with an example."""
        if not self._is_valid(value):
            self.fail(f"{value!r} is no address; valid: {self._schemes[0]}://host:port/path", param, ctx)
        return value

    def _is_valid(self, value: str) -> bool:
        try:
            parts = urlsplit(value)
            named = parts.hostname and (parts.port is None or parts.port > 0)
        except ValueError:
            return False
        return bool(named and parts.scheme in self._schemes and re.fullmatch("[!-~]+", value))


@click.command(name="feed")
@click.argument("venue", metavar="VENUE", type=click.Choice(list(VENUES)))
@click.option("--symbols", type=Symbols(), required=True, help="Symbols as the venue writes them.")
@click.option("--exchange", help="Publish into this exchange's topics instead of the venue's own.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Keep what came, for `k2 play`.")
@click.option("--seconds", type=Finite(min=0, min_open=True), help="End after this long; without it, run on.")
@click.option("--url", type=Address("wss", "ws"), help="Address of the feed instead of the venue's.")
@click.option("--snapshot-url", type=Address("https", "http"), help="Address of book snapshots instead of Binance's.")
@click.option("--definitions-url", type=Address("https", "http"), help="Address of the list of instruments.")
@click.option("--definitions/--no-definitions", default=True, help="Publish what the venue says of its instruments.")
@json_option
def feed_command(
    venue: str,
    symbols: tuple[str, ...],
    exchange: str | None,
    record: Path | None,
    seconds: float | None,
    url: str | None,
    snapshot_url: str | None,
    definitions_url: str | None,
    definitions: bool,
    as_json: bool,
) -> None:
    """Publish the live market data of VENUE: trades, best prices and books of the named symbols.

    Runs until Ctrl-C, which delivers what was accepted and exits with status 130; a second one gives up what Kafka has
    not taken yet. Lost connections are made anew; what happened to them is in the control topic.
    """
    chosen = VENUES[venue]
    if len(symbols) > chosen.most_symbols:
        raise click.UsageError(
            f"{venue} takes {chosen.most_symbols} symbols on a connection, these are {len(symbols)}: run several feeds"
        )
    plan = FeedPlan(
        chosen, symbols, exchange or chosen.exchange, url or chosen.url, snapshot_url or chosen.snapshot_url, record,
        seconds, _definitions_url(chosen, url, definitions_url) if definitions else "",
    )  # fmt: skip
    report = FeedReport(venue, plan.exchange, list(symbols))

    def so_far() -> None:
        if report.connections:
            _show(report, as_json)

    first = f"{venue}: connecting to {plan.url}"
    with stop_on_signals() as stop, progress_line(first) as line, telling_how_far(stop, so_far):
        _feed(plan, report, stop, line)
    _show(report, as_json)
    if stop.asked.is_set():
        exit_interrupted(report.undelivered)


def _definitions_url(venue: Venue, url: str | None, definitions_url: str | None) -> str:
    """Where the list is asked for. Another feed than the venue's has instruments of its own."""
    return definitions_url or ("" if url else venue.listing.url)


def _feed(plan: FeedPlan, report: FeedReport, stop: Stop, line: ProgressLine) -> None:
    own = settings()
    profiles = load_profiles(own.profiles)
    feed(
        own, profiles, plan, stop=stop.asked, waiting=stop.waiting, report=report,
        on_progress=line.telling(progress_text),
    )  # fmt: skip


def progress_text(report: FeedReport) -> str:
    """`binance: 12,345 rows, 1 book waiting, clock +12.3 ms, connection 2`."""
    if not report.last:
        return f"{report.venue}: not connected, try {report.tries}"
    newest = report.last[-1]
    parts = [f"{report.rows.total():,} rows", f"connection {report.connections}"]
    if newest.ended:
        parts.append(f"not connected ({newest.ended})")
    if report.books_waiting:
        parts.append(f"{report.books_waiting} books wait for a snapshot")
    if report.definitions.missing:
        parts.append("no definitions of instruments")
    if newest.silent:
        parts.append(f"nothing yet of {', '.join(newest.silent)}")
    if newest.skew is not None:
        parts.append(skew_text(newest.skew))
    return f"{report.venue}: " + ", ".join(parts)


def skew_text(skew: Skew) -> str:
    """`received +12.3 ms after the venue's time (least +8.1 ms)`."""
    median, least = skew.median_milliseconds, skew.least_milliseconds
    return f"received {median:+,.1f} ms after the venue's time (least {least:+,.1f} ms)"


def _show(report: FeedReport, as_json: bool) -> None:
    if as_json:
        click.echo(to_json(report.as_document()))
        return
    click.echo(f"{report.venue} -> {report.exchange}: {rows_text(report.rows)} in {report.seconds:.1f} s")
    for line in _details(report):
        click.echo(f"  {line}")


def _definitions(report: DefinitionsReport) -> list[tuple[Any, str]]:
    news = f"{report.published:,} new or changed, {report.withdrawn:,} withdrawn, {report.refused:,} refused"
    return [
        (report.lists, f"definitions of {report.known:,} instruments: {news}"),
        (report.missing, f"no definitions since {report.failures:,} tries: {report.missing}"),
    ]


def _details(report: FeedReport) -> list[str]:
    told: list[tuple[Any, str]] = [
        (report.books_lost, f"books lost and asked for anew: {report.books_lost:,}"),
        (report.snapshot_failures, f"book snapshots that could not be fetched: {report.snapshot_failures:,}"),
        *_definitions(report.definitions),
        (report.undelivered, f"not delivered: {report.undelivered:,} messages"),
    ]
    lines = [*without_rows(report), *(text for condition, text in told if condition)]
    for one in report.last:
        skew = f"; {skew_text(one.skew)}" if one.skew else ""
        skew += f"; nothing came of {', '.join(one.silent)}" if one.silent else ""
        lines.append(f"{one.publisher_session}: {one.seconds:.1f} s, {one.ended or 'not ended'}{skew}")
    return lines
