"""`k2 play`: real captures into Kafka."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from k2_dagster.cli.common import json_option, settings, to_json
from k2_dagster.cli.progress import progress_line
from k2_dagster.cli.published import rows_text, without_rows
from k2_dagster.cli.stopping import Stop, exit_interrupted, stop_on_signals, telling_how_far
from k2_dagster.feeds.capture.formats import FORMATS, Capture, open_capture
from k2_dagster.feeds.capture.player import PlayReport, play
from k2_dagster.schemas.common import MICROS_PER_SECOND
from k2_dagster.schemas.profiles import load_profiles

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
@json_option
def play_command(files: tuple[Path, ...], speed: float | None, exchange: str | None, as_json: bool) -> None:
    """Play captured market data into Kafka, one FILE after another.

    Playing a file twice gives only duplicates. Lines that do not become rows exactly are published as they are, so that
    they are found in quarantine. Ctrl-C delivers what was accepted and exits with status 130; a second one gives up
    what Kafka has not taken yet.
    """
    captures = [open_capture(path, exchange) for path in files]
    reports: list[PlayReport] = []

    def so_far() -> None:
        _show([one for one in reports if one.inputs], as_json)

    with stop_on_signals() as stop, progress_line(f"{files[0].name}: opening") as line, telling_how_far(stop, so_far):
        _play(captures, speed, stop, reports, line.telling(progress_text))
    _show(reports, as_json)
    if stop.asked.is_set():
        exit_interrupted(sum(one.undelivered for one in reports))


def _play(
    captures: Sequence[Capture],
    speed: float | None,
    stop: Stop,
    reports: list[PlayReport],
    on_progress: Callable[[PlayReport], None],
) -> None:
    own = settings()
    profiles = load_profiles(own.profiles)
    play(
        own, profiles, captures, speed=speed, stop=stop.asked, waiting=stop.waiting, reports=reports,
        on_progress=on_progress,
    )  # fmt: skip


def progress_text(report: PlayReport) -> str:
    """`x.gz: 42 %, at 2024-08-08 23:58:13 UTC, 12,345 rows`."""
    at = ""
    if report.recorded_micros is not None:
        at = f", at {datetime.fromtimestamp(report.recorded_micros // MICROS_PER_SECOND, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"{Path(report.path).name}: {report.share:.0%}{at}, {report.rows.total():,} rows".replace("%", " %")


def _show(reports: Sequence[PlayReport], as_json: bool) -> None:
    if as_json:
        click.echo(to_json([one.as_document() for one in reports]))
        return
    for one in reports:
        name, rows = Path(one.path).name, rows_text(one.rows)
        click.echo(f"{name}  {one.format} -> {one.exchange}: {rows} in {one.seconds:.1f} s")
        for text in without_rows(one):
            click.echo(f"  {text}")
        if one.undelivered:
            click.echo(f"  not delivered: {one.undelivered:,} messages; play the file again")
        if one.stopped:
            click.echo(f"  stopped early, at {one.share:.0%} of the file".replace("%", " %"))
