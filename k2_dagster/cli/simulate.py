"""`k2 simulate`: a simulated exchange on real topics."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from k2_dagster.cli.common import Finite, emit_one, json_option, settings
from k2_dagster.cli.progress import ProgressLine, progress_line
from k2_dagster.cli.stopping import Stop, exit_interrupted, stop_on_signals, telling_how_far
from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.simulator.faults import Fault, FaultPlan, FaultType, parse_fault
from k2_dagster.feeds.simulator.feed import FeedParameters, SimulatedFeed
from k2_dagster.feeds.simulator.intensity import PATTERNS, Pattern
from k2_dagster.feeds.simulator.simulation import Simulation, SimulationReport
from k2_dagster.schemas.common import EARLIEST_MICROS, LATEST_MICROS, MICROS_PER_SECOND
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.settings import Settings

# More than this no venue has, and no machine sends; a typing mistake is told before it fills the memory.
MOST_SYMBOLS = 100_000
MOST_PER_SECOND = 10_000_000
LONGEST_SECONDS = 366 * 86_400
FAULTS_PER_MILLION = 1_000_000
# A message that leaves this long after it was due: the rate is not held.
BEHIND_SECONDS = 1.0


class StartTime(click.ParamType[int]):
    """ISO 8601, UTC unless it has an offset (`Z` too); converts to Unix microseconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Fails with what would be valid."""
        try:
            given = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time: valid is ISO 8601, as 2026-03-02T09:30:00Z", param, ctx)
        aware = given if given.tzinfo is not None else given.replace(tzinfo=UTC)
        micros = int(aware.timestamp()) * MICROS_PER_SECOND + aware.microsecond
        if not EARLIEST_MICROS <= micros <= LATEST_MICROS:
            self.fail(f"{value!r} is outside the times that messages may have: 1980 to 2100", param, ctx)
        return micros


class FaultOption(click.ParamType[Fault]):
    """One fault, as `parse_fault` reads it."""

    name = "fault"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fault:
        """Fails with what would be valid."""
        try:
            return parse_fault(value)
        except ConfigurationError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.option("--exchange", default="sim_crypto", show_default=True, help="An exchange of the profiles file.")
@click.option(
    "--symbols",
    type=click.IntRange(1, MOST_SYMBOLS),
    default=200,
    show_default=True,
    help="How many symbols; the flow is shared by Zipf's law.",
)
@click.option(
    "--rate",
    type=Finite(0, MOST_PER_SECOND, min_open=True),
    default=1_000.0,
    show_default=True,
    help="Mean messages per second, all datasets together.",
)
@click.option(
    "--seconds",
    type=Finite(0, LONGEST_SECONDS, min_open=True),
    help="Length of the run in event time; without it, until Ctrl-C (with --flat-out and --start: until now).",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="With --flat-out and --start, the same seed gives the same bytes.",
)
@click.option("--pattern", type=click.Choice(PATTERNS), default="flat", show_default=True,
              help="flat; bursts; day: also the exchange's open, close and lunch.")  # fmt: skip
@click.option(
    "--start",
    "start_micros",
    type=StartTime(),
    help="Time of the first message, with --flat-out; otherwise the run ends now.",
)
@click.option("--flat-out", is_flag=True, help="As fast as Kafka takes it, instead of in real time.")
@click.option(
    "--fault",
    "faults",
    type=FaultOption(),
    multiple=True,
    metavar="TYPE[:COUNT]@WHEN[/DATASET[/SYMBOL]]",
    help=f"TYPE: {', '.join(one.value for one in FaultType)}. WHEN: 10s, or 5000m for a message number.",
)
@click.option(
    "--random-faults", type=Finite(0, FAULTS_PER_MILLION), default=0.0, help="Mean random faults per million messages."
)
@click.option(
    "--truth", type=click.Path(dir_okay=False, path_type=Path), help="Write what was planted, one JSON per line."
)
@json_option
def simulate(
    exchange: str,
    symbols: int,
    rate: float,
    seconds: float | None,
    seed: int,
    pattern: Pattern,
    start_micros: int | None,
    flat_out: bool,
    faults: tuple[Fault, ...],
    random_faults: float,
    truth: Path | None,
    as_json: bool,
) -> None:
    """Publish trades, quotes and book updates of a simulated exchange, with faults on demand.

    Needs the topics that `k2 init` creates. Ctrl-C ends it after delivering what was accepted.
    """
    plan = FaultPlan(faults, random_rate=random_faults / FAULTS_PER_MILLION, seed=seed)
    start_micros, seconds = _when(start_micros, seconds, flat_out=flat_out)
    parameters = FeedParameters(
        exchange=exchange, symbols=symbols, rate=rate, seed=seed, seconds=seconds, pattern=pattern, plan=plan,
        start_micros=start_micros,
    )  # fmt: skip
    own = settings()
    profiles = load_profiles(own.profiles)
    with stop_on_signals() as stop, progress_line(f"{exchange}: starting") as line:
        report = _simulate(own, profiles, parameters, stop, line, flat_out=flat_out, truth=truth, as_json=as_json)
    _warn(report)
    if report.interrupted:
        exit_interrupted(report.undelivered)


def _simulate(
    own: Settings,
    profiles: Profiles,
    parameters: FeedParameters,
    stop: Stop,
    line: ProgressLine,
    *,
    flat_out: bool,
    truth: Path | None,
    as_json: bool,
) -> SimulationReport:
    if not flat_out:
        # The order book is compiled at its first use, which must not count as being late
        next(SimulatedFeed(profiles, parameters).blocks())
        parameters = replace(parameters, start_micros=time.time_ns() // 1000)
    simulation = Simulation(
        own, profiles, parameters, flat_out=flat_out, stop=stop.asked, waiting=stop.waiting, truth=truth,
        on_progress=line.telling(partial(_progress_text, time.monotonic())),
    )  # fmt: skip
    report = simulation.report

    def so_far() -> None:
        if report.published.total():
            emit_one(report.line(), as_json)

    with telling_how_far(stop, so_far):
        simulation.run()
    report.interrupted |= stop.given_up.is_set()
    emit_one(report.line(), as_json)
    return report


def _when(start_micros: int | None, seconds: float | None, *, flat_out: bool) -> tuple[int, float | None]:
    """Start and length of the run. What is flat out ends now, unless a start and a length say otherwise."""
    now = time.time_ns() // 1000
    if not flat_out:
        if start_micros is not None:
            raise click.UsageError("--start needs --flat-out: in real time, the first message is now")
        return now, seconds
    if start_micros is None:
        if seconds is None:
            raise click.UsageError(
                "--flat-out needs --seconds, or --start: without an end it would run into the future"
            )
        return now - int(seconds * MICROS_PER_SECOND), seconds
    if seconds is None:
        if start_micros >= now:
            raise click.UsageError("--start is in the future: --flat-out needs --seconds there")
        seconds = (now - start_micros) / MICROS_PER_SECOND
    return start_micros, seconds


def _warn(report: SimulationReport) -> None:
    if report.behind_seconds > BEHIND_SECONDS:
        click.echo(
            f"the rate was not held: messages left up to {report.behind_seconds:.1f} s after they were due", err=True
        )
    if report.unplanted:
        click.echo(f"{len(report.unplanted)} faults did not happen: {', '.join(report.unplanted)}", err=True)


def _progress_text(started: float, report: SimulationReport) -> str:
    total, seconds = report.published.total(), time.monotonic() - started
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(report.faults.items()))
    behind = f"; {report.behind_seconds:.1f} s behind" if report.behind_seconds > BEHIND_SECONDS else ""
    return f"{report.exchange}: {total:,} messages, {total / seconds:,.0f}/s{behind}; faults: {faults or 'none'}"
