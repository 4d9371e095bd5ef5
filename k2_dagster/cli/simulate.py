"""`k2 simulate`: a simulated exchange on real topics."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from k2_dagster.cli.common import emit_one, json_option, settings
from k2_dagster.cli.exits import INTERRUPTED
from k2_dagster.feeds.simulator.faults import FaultPlan, FaultType, parse_fault
from k2_dagster.feeds.simulator.feed import FeedParameters
from k2_dagster.feeds.simulator.intensity import MICROS_PER_SECOND, PATTERNS, Pattern
from k2_dagster.feeds.simulator.simulation import Simulation, SimulationReport
from k2_dagster.schemas.profiles import load_profiles

# How often the progress line is renewed.
PROGRESS_SECONDS = 0.5
# Flat out without a start time nor an end, event times start this far back, so that they stay in the past.
FLAT_OUT_LEAD_SECONDS = 3_600.0


@click.command()
@click.option("--exchange", default="sim_crypto", show_default=True, help="An exchange of the profiles file.")
@click.option("--symbols", default=200, show_default=True, help="How many symbols; the flow is shared by Zipf's law.")
@click.option("--rate", default=1_000.0, show_default=True, help="Mean messages per second, all datasets together.")
@click.option("--seconds", type=float, help="Length of the run in event time; without it, until Ctrl-C.")
@click.option(
    "--seed", default=1, show_default=True, help="With --flat-out and --start, the same seed gives the same bytes."
)
@click.option("--pattern", type=click.Choice(PATTERNS), default="flat", show_default=True,
              help="flat; bursts; day: also the exchange's open, close and lunch.")  # fmt: skip
@click.option("--start", type=click.DateTime(), help="Time of the first message (UTC); otherwise now.")
@click.option("--flat-out", is_flag=True, help="As fast as Kafka takes it, instead of in real time.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="TYPE[:COUNT]@WHEN[/DATASET[/SYMBOL]]",
    help=f"TYPE: {', '.join(one.value for one in FaultType)}. WHEN: 10s, or 5000m for a message number.",
)
@click.option("--random-faults", default=0.0, help="Mean random faults per million messages.")
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
    start: datetime | None,
    flat_out: bool,
    faults: tuple[str, ...],
    random_faults: float,
    truth: Path | None,
    as_json: bool,
) -> None:
    """Publish trades, quotes and book updates of a simulated exchange, with faults on demand.

    Needs the topics that `k2 init` creates. Ctrl-C ends it after delivering what was accepted.
    """
    plan = FaultPlan(tuple(parse_fault(text) for text in faults), random_rate=random_faults / 1_000_000, seed=seed)
    parameters = FeedParameters(
        exchange=exchange, symbols=symbols, rate=rate, seed=seed, seconds=seconds, pattern=pattern, plan=plan,
        start_micros=_start_micros(start, seconds, flat_out=flat_out),
    )  # fmt: skip
    own = settings()
    profiles = load_profiles(own.profiles)
    stop = threading.Event()
    with _stop_on_signals(stop), Console(stderr=True).status(f"{exchange}: starting") as status:
        simulation = Simulation(
            own, profiles, parameters, flat_out=flat_out, stop=stop, truth=truth, on_progress=_progress(status.update)
        )
        report = simulation.run()
    emit_one(report.line(), as_json)
    if report.interrupted:
        sys.exit(INTERRUPTED)


def _start_micros(start: datetime | None, seconds: float | None, *, flat_out: bool) -> int:
    if start is not None:
        return int(start.replace(tzinfo=UTC).timestamp()) * MICROS_PER_SECOND + start.microsecond
    lead = 0.0 if not flat_out else FLAT_OUT_LEAD_SECONDS if seconds is None else seconds
    return time.time_ns() // 1000 - int(lead * MICROS_PER_SECOND)


@contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    def handle(_signal: int, _frame: FrameType | None) -> None:
        # A second signal ends the wait for Kafka too.
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress(update: Callable[[str], None]) -> Callable[[SimulationReport], None]:
    started = shown = time.monotonic()

    def show(report: SimulationReport) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < PROGRESS_SECONDS:
            return
        shown = now
        total = sum(report.published.values())
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(report.faults.items()))
        update(f"{report.exchange}: {total:,} messages, {total / (now - started):,.0f}/s; faults: {faults or 'none'}")

    return show
