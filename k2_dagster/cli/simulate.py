"""`k2 simulate`: a simulated exchange on real topics."""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.table import Table

from k2_dagster.feeds.simulator.faults import FaultPlan, FaultType, parse_fault
from k2_dagster.feeds.simulator.feed import FeedParameters
from k2_dagster.feeds.simulator.intensity import MICROS_PER_SECOND, PATTERNS, Pattern
from k2_dagster.feeds.simulator.simulation import Simulation, SimulationReport
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import load_settings

# How often the progress line is renewed.
PROGRESS_SECONDS = 0.5
INTERRUPTED_EXIT_CODE = 130
# Flat out without a start time nor an end, event times start this far back, so that they stay in the past.
FLAT_OUT_LEAD_SECONDS = 3_600.0


@click.command()
@click.option("--exchange", default="sim_crypto", show_default=True, help="An exchange of the profiles file.")
@click.option("--symbols", default=200, show_default=True, help="How many symbols; the flow is shared by Zipf's law.")
@click.option("--rate", default=1_000.0, show_default=True, help="Mean messages per second, all datasets together.")
@click.option("--seconds", type=float, help="Length of the run in event time; without it, until Ctrl-C.")
@click.option("--seed", default=1, show_default=True, help="The same seed, options and start give the same bytes.")
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
@click.option("--json", "as_json", is_flag=True, help="Machine-readable counts, one document.")
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
    settings = load_settings()
    stop = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, _stopper(stop))
    console = Console(stderr=True)
    with console.status(f"{exchange}: starting") as status:
        simulation = Simulation(
            settings, load_profiles(settings.profiles), parameters, flat_out=flat_out, stop=stop, truth=truth,
            on_progress=_progress(status.update),
        )  # fmt: skip
        report = simulation.run()
    _show(report, as_json=as_json)
    if report.interrupted:
        sys.exit(INTERRUPTED_EXIT_CODE)


def _start_micros(start: datetime | None, seconds: float | None, *, flat_out: bool) -> int:
    if start is not None:
        return int(start.replace(tzinfo=UTC).timestamp()) * MICROS_PER_SECOND + start.microsecond
    lead = 0.0 if not flat_out else FLAT_OUT_LEAD_SECONDS if seconds is None else seconds
    return time.time_ns() // 1000 - int(lead * MICROS_PER_SECOND)


def _stopper(stop: threading.Event) -> Callable[[int, FrameType | None], None]:
    def handle(_signal: int, _frame: FrameType | None) -> None:
        # A second signal ends the wait for Kafka too.
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    return handle


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


def _show(report: SimulationReport, *, as_json: bool) -> None:
    line = report.line()
    if as_json:
        click.echo(json.dumps(line))
        return
    table = Table("what", "count", title=f"{report.exchange}, seed {report.seed}, {report.publisher_session}")
    for dataset, count in report.published.items():
        table.add_row(f"{dataset} published", f"{count:,}")
    for kind, count in report.faults.items():
        table.add_row(f"{kind} faults", f"{count:,} ({report.fault_messages[kind]:,} messages)")
    for fault in report.unplanted:
        table.add_row(f"not planted: {fault}", "the run ended before it could")
    table.add_row("messages per second", f"{line['messages_per_second']:,}")
    Console().print(table)
