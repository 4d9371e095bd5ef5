"""`k2 play`: real captures into Kafka."""

import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from k2_dagster.feeds.capture.formats import FORMATS, open_capture
from k2_dagster.feeds.capture.player import PlayReport, play
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import load_settings

INTERRUPTED_EXIT = 130
FLAT_OUT = "flat-out"


class Speed(click.ParamType[float | None]):
    """`original`, a factor above 0, or `flat-out`; converts to a factor, None for flat out."""

    name = "original|FACTOR|flat-out"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Fails with what would be valid."""
        if value == FLAT_OUT:
            return None
        try:
            factor = 1.0 if value == "original" else float(value)
        except ValueError:
            factor = 0.0
        if not 0 < factor < float("inf"):
            self.fail(f"{value!r}: valid are `original`, a factor above 0 (as 10 or 0.5), and `{FLAT_OUT}`", param, ctx)
        return factor


@click.command(name="play", epilog="Formats: " + "; ".join(f"{one.name} ({one.expected})" for one in FORMATS) + ".")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--speed", type=Speed(), default=FLAT_OUT, show_default=True, help="Timing of the rows.")
@click.option("--exchange", help="Play into this exchange's topics instead of the format's own.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable report, one document.")
def play_command(files: tuple[Path, ...], speed: float | None, exchange: str | None, as_json: bool) -> None:
    """Play captured market data into Kafka, one FILE after another.

    Playing a file twice gives only duplicates. Lines that do not become rows exactly are published as they are, so that
    they are found in quarantine. Ctrl-C delivers what was accepted and exits with status 130.
    """
    settings = load_settings()
    profiles = load_profiles(settings.profiles)
    captures = [open_capture(path, exchange) for path in files]
    with _stop_on_interrupt() as stop:
        reports = play(
            settings, profiles, captures, speed=speed, stop=stop, on_progress=lambda one: _progress(one, as_json)
        )
    if as_json:
        click.echo(json.dumps([one.as_document() for one in reports], indent=2))
    else:
        _show(reports)
    if stop.is_set():
        raise SystemExit(INTERRUPTED_EXIT)


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress(report: PlayReport, as_json: bool) -> None:
    if not as_json:
        click.echo(f"  {Path(report.path).name}: {report.inputs:,} read, {report.rows.total():,} rows", err=True)


def _show(reports: Sequence[PlayReport]) -> None:
    for one in reports:
        rows = ", ".join(f"{count:,} {dataset}" for dataset, count in sorted(one.rows.items())) or "no rows"
        click.echo(f"{Path(one.path).name}  {one.format} -> {one.exchange}: {rows} in {one.seconds:.1f} s")
        if one.skipped:
            click.echo("  no market event: " + ", ".join(f"{count:,} {what}" for what, count in one.skipped.items()))
        if one.refused:
            click.echo(f"  refused and published for quarantine: {one.refused:,}; first: {'; '.join(one.refusals)}")
        if one.stopped:
            click.echo("  stopped early; what was accepted is delivered")
