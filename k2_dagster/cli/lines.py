"""`k2 lines`: an exchange that numbers its messages in a channel and sends them on two lines."""

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from k2_dagster.cli.common import Finite, json_option, settings, to_json
from k2_dagster.cli.progress import progress_line
from k2_dagster.cli.published import rows_text
from k2_dagster.cli.simulate import LONGEST_SECONDS, MOST_PER_SECOND, MOST_SYMBOLS
from k2_dagster.cli.stopping import exit_interrupted, stop_on_signals, telling_how_far
from k2_dagster.feeds.lines.receiver import ReceivePlan, receive
from k2_dagster.feeds.lines.report import LinesFeedReport, lines_text
from k2_dagster.feeds.simulator.feed import FeedParameters, SimulatedFeed
from k2_dagster.feeds.simulator.lines.line import LineFaults
from k2_dagster.feeds.simulator.lines.serving import LINE_NAMES, LineSimulation, LinesPlan, LinesReport
from k2_dagster.observability.printable import printable
from k2_dagster.schemas.common import NAME_PATTERN
from k2_dagster.schemas.profiles import load_profiles

Address = tuple[str, int]

EXCHANGE = "sim_lines"
LINES = "127.0.0.1:26400,127.0.0.1:26401"
SERVER = "127.0.0.1:26402"
HIGHEST_PORT = 65_535


class HostPort(click.ParamType[Address]):
    """`HOST:PORT`; the host may be a name or an IPv4 address."""

    name = "host:port"

    def convert(self, value: str | Address, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Fails with an example."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([A-Za-z0-9.-]{1,253}):(\d{1,5})", value.strip())
        if found is None or not 0 < int(found[2]) <= HIGHEST_PORT:
            self.fail(f"{value!r} is no address; valid: HOST:PORT, as 127.0.0.1:26400", param, ctx)
        return found[1], int(found[2])


class HostPorts(click.ParamType[tuple[Address, Address]]):
    """Two of them, for line A and line B."""

    name = "a,b"

    def convert(
        self, value: str | tuple[Address, Address], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Address, Address]:
        """Fails with an example."""
        if isinstance(value, tuple):
            return value
        parts = value.split(",")
        if len(parts) != len(LINE_NAMES) or len(set(parts)) != len(parts):
            self.fail(f"{value!r} are not two lines; valid: two addresses, as {LINES}", param, ctx)
        first, second = (HostPort().convert(part, param, ctx) for part in parts)
        return first, second


@click.group()
def lines() -> None:
    """An exchange that numbers its messages in one channel and sends each of them on two lines, A and B."""


@lines.command(name="receive")
@click.option("--exchange", default=EXCHANGE, show_default=True, help="An exchange of the profiles file.")
@click.option("--lines", "addresses", type=HostPorts(), default=LINES, show_default=True, help="Where A and B arrive.")
@click.option("--channel", default="1", show_default=True, help="Name of the channel in rows and gaps.")
@click.option("--retransmission", type=HostPort(), help="Server to ask for what both lines lost; without it, nobody.")
@click.option("--snapshot", is_flag=True, help="Begin with the server's books, and what was sent since.")
@click.option("--seconds", type=Finite(0, LONGEST_SECONDS, min_open=True), help="End after this long.")
@click.option("--until-end", is_flag=True, help="End with the exchange's session.")
@json_option
def receive_command(
    exchange: str,
    addresses: tuple[Address, Address],
    channel: str,
    retransmission: Address | None,
    snapshot: bool,
    seconds: float | None,
    until_end: bool,
    as_json: bool,
) -> None:
    """Publish what comes on the lines of an exchange: of each number the copy that comes first.

    Runs until Ctrl-C, which delivers what was accepted and exits with status 130. What both lines lost is a gap in
    the control topic, unless the retransmission server gives it in time.
    """
    if not re.fullmatch(NAME_PATTERN, channel):
        raise click.UsageError(f"--channel was {channel!r}; valid: 1 to 64 visible ASCII characters, without a space")
    if snapshot and retransmission is None:
        raise click.UsageError("--snapshot needs --retransmission: the server has the books")
    named = dict(zip(LINE_NAMES, addresses, strict=True))
    plan = ReceivePlan(exchange, named, channel, retransmission, snapshot, seconds, until_end)
    report = LinesFeedReport(exchange, channel)
    own = settings()
    profiles = load_profiles(own.profiles)

    def so_far() -> None:
        if report.rows.total():
            _show_received(report, as_json)

    first = f"{exchange}: waiting for the lines"
    with stop_on_signals() as stop, progress_line(first) as line, telling_how_far(stop, so_far):
        receive(
            own, profiles, plan, stop=stop.asked, waiting=stop.waiting, report=report,
            on_progress=line.telling(_received_text), on_listening=_listening,
        )  # fmt: skip
    _show_received(report, as_json)
    if stop.asked.is_set():
        exit_interrupted(report.undelivered)


@lines.command(name="serve")
@click.option("--exchange", default=EXCHANGE, show_default=True, help="An exchange whose streams share a channel.")
@click.option(
    "--lines", "addresses", type=HostPorts(), default=LINES, show_default=True, help="Where A and B are sent."
)
@click.option("--retransmission", type=HostPort(), default=SERVER, show_default=True, help="Where the server listens.")
@click.option(
    "--symbols", type=click.IntRange(1, MOST_SYMBOLS), default=200, show_default=True, help="How many symbols."
)
@click.option("--rate", type=Finite(0, MOST_PER_SECOND, min_open=True), default=1_000.0, show_default=True,
              help="Mean messages per second, all datasets together.")  # fmt: skip
@click.option("--seconds", type=Finite(0, LONGEST_SECONDS, min_open=True), help="Length; without it, until Ctrl-C.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the market and of the losses.")
@click.option("--drop", type=Finite(0, 1), default=0.0, show_default=True, help="Share of packets each line loses.")
@click.option("--delay", type=Finite(0, 1), default=0.0, show_default=True, help="Share of packets each line holds up.")
@click.option("--delay-seconds", type=Finite(0, 60), default=0.05, show_default=True, help="For how long at most.")
@click.option("--linger", type=Finite(0, LONGEST_SECONDS), default=10.0, show_default=True,
              help="Seconds for which the server answers after the last message.")  # fmt: skip
@click.option("--truth", type=click.Path(dir_okay=False, path_type=Path), help="Write what each line lost, as JSON.")
@json_option
def serve(
    exchange: str,
    addresses: tuple[Address, Address],
    retransmission: Address,
    symbols: int,
    rate: float,
    seconds: float | None,
    seed: int,
    drop: float,
    delay: float,
    delay_seconds: float,
    linger: float,
    truth: Path | None,
    as_json: bool,
) -> None:
    """Send a simulated exchange on two lines, and serve retransmission and book snapshots; needs no Kafka.

    Each line loses and holds up packets on its own. Ctrl-C ends it.
    """
    plan = LinesPlan(addresses, retransmission, LineFaults(drop, delay, delay_seconds), linger, truth)
    profiles = load_profiles(settings().profiles)
    parameters = FeedParameters(exchange, symbols, rate, seed, time.time_ns() // 1000, seconds)
    # The order book is compiled at its first use, which must not count as being late
    next(SimulatedFeed(profiles, parameters).blocks())
    parameters = replace(parameters, start_micros=time.time_ns() // 1000)
    with stop_on_signals() as stop, progress_line(f"{exchange}: starting") as line:
        simulation = LineSimulation(profiles, parameters, plan, stop=stop.asked, on_progress=line.telling(_sent_text))
        click.echo(f"session {simulation.report.session}, retransmission on {simulation.report.server}", err=True)
        report = simulation.run()
    _show_sent(report, as_json)
    if report.interrupted:
        exit_interrupted()


def _listening(addresses: Mapping[str, Address]) -> None:
    told = ", ".join(f"{name} on {host}:{port}" for name, (host, port) in addresses.items())
    click.echo(f"listening: {told}", err=True)


def _received_text(report: LinesFeedReport) -> str:
    counts = f"{report.rows.total():,} rows, {report.missing:,} missing"
    return f"{report.exchange}: {counts}; {lines_text(report.lines)}"


def _sent_text(report: LinesReport) -> str:
    return f"{report.exchange}: {report.messages:,} messages, {report.lost_messages:,} lost on both lines"


def _show_received(report: LinesFeedReport, as_json: bool) -> None:
    if as_json:
        click.echo(to_json(report.as_document()))
        return
    click.echo(f"{report.exchange}: {rows_text(report.rows)} in {report.seconds:.1f} s")
    told: list[tuple[Any, str]] = [
        (report.lines, lines_text(report.lines)),
        (report.books, f"began with {report.books:,} books"),
        (report.given_up, f"on no line in time: {report.given_up:,} messages, of which {report.late:,} came late"),
        (report.refused, f"refused and published for quarantine: {report.refused:,}; {'; '.join(report.refusals)}"),
        (report.queue_dropped, f"dropped because Kafka took too little: {report.queue_dropped:,} packets"),
        (report.undelivered, f"not delivered: {report.undelivered:,} messages"),
    ]
    if report.asked is not None:
        asked = report.asked
        text = f"asked again {asked.requests:,} times, {asked.refused:,} refused, {asked.failures:,} not answered"
        told.append((True, text + (f"; last: {asked.last_refusal}" if asked.last_refusal else "")))
    for condition, text in told:
        if condition:
            click.echo(f"  {printable(text)}")


def _show_sent(report: LinesReport, as_json: bool) -> None:
    if as_json:
        click.echo(to_json(report.as_document()))
        return
    click.echo(f"{report.exchange}: {report.messages:,} messages of session {report.session} in {report.seconds:.1f} s")
    for name, one in report.lines.items():
        click.echo(
            f"  {name}: {one.packets:,} packets sent, {one.dropped_packets:,} lost, {one.delayed_packets:,} held up"
        )
    click.echo(f"  lost on both: {report.lost_messages:,} messages in {report.lost_ranges:,} ranges")
    told = report.retransmission
    click.echo(
        f"  retransmission: {told['answered']:,} answers, {told['messages']:,} messages, refused {told['refused']}"
    )
