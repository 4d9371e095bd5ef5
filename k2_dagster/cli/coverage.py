"""`k2 coverage`: a day of an exchange, symbol by symbol."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from k2_dagster.cli.common import Time, refuse_unknown_exchange, settings, text_value, to_json
from k2_dagster.cli.tables import print_rich
from k2_dagster.coverage.complete import LIMITS, Answer, Gaps, Unknown
from k2_dagster.coverage.day import day_of
from k2_dagster.coverage.picture import CELLS, Cell, Strip
from k2_dagster.observability.printable import printable
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.state.database import Database
from k2_dagster.state.times import from_micros

MINUTES_PER_DAY = 1_440
# Cells of a line that fit a terminal of 120 characters, with the names before them.
DEFAULT_MINUTES = 30
DEFAULT_LIMIT = 40
HOURS_BETWEEN_MARKS = 6

# Told apart without colours too.
GLYPHS: dict[Cell, tuple[str, str]] = {
    "received": ("█", "green"),
    "filled": ("▒", "cyan"),
    "gap": ("×", "bold red"),
    "halted": ("H", "bold magenta"),
    "deferred": ("D", "magenta"),
    "outside": ("·", "dim"),
    "closed": ("-", "dim"),
}
MEANINGS: dict[Cell, str] = {
    "received": "received",
    "filled": "received, some of it after it was missed",
    "gap": "something is missing",
    "halted": "halted",
    "deferred": "deferred",
    "outside": "before the first or after the last message",
    "closed": "the exchange is closed",
}


@click.command()
@click.option("--exchange", required=True, help="The exchange.")
@click.option("--symbol", help="Only this symbol.")
@click.option("--stream", help="Only this stream.")
@click.option("--day", type=Time(), help="UTC day, as 2026-03-01. [default: today]")
@click.option(
    "--minutes",
    type=click.Choice(["5", "10", "15", "30", "60"]),
    default=str(DEFAULT_MINUTES),
    show_default=True,
    help="Minutes that a cell stands for.",
)
@click.option("--limit", type=click.IntRange(1), default=DEFAULT_LIMIT, show_default=True, help="Most lines.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, one document.")
def coverage(
    exchange: str,
    symbol: str | None,
    stream: str | None,
    day: datetime | None,
    minutes: str,
    limit: int,
    as_json: bool,
) -> None:
    """Show what was received on a day, and what is missing: a line per stream and symbol, those in trouble first.

    Times are the venue's. The answer of a line is about the whole day: `complete`; `gaps`, which `k2 gaps` lists; or
    `unknown`, as where the first message of a symbol came at noon, or the day is not over.
    """
    current = settings()
    chosen = (day or datetime.now(UTC)).astimezone(UTC).date()
    profiles = load_profiles(current.profiles)
    with closing(Database(current)) as database:
        found = day_of(database, profiles, exchange, chosen, symbol=symbol, minutes=int(minutes))
    strips = [one for one in found if stream is None or one.stream == stream]
    if not strips:
        refuse_unknown_exchange(current, exchange)
    if as_json:
        click.echo(to_json([_document(one, chosen, int(minutes)) for one in strips[:limit]]))
        return
    if not strips:
        what = " ".join(one for one in (exchange, stream, symbol) if one)
        click.echo(f"nothing is on record of {printable(what)} on {chosen} or in the days before")
        return
    print_rich(_picture(strips[:limit], chosen, int(minutes)))
    click.echo(_legend(strips[:limit]))
    if len(strips) > limit:
        click.echo(f"{len(strips) - limit:,} more lines: --symbol chooses one, --limit shows more")


def _document(strip: Strip, day: date, minutes: int) -> dict[str, Any]:
    return {
        "exchange": strip.exchange,
        "dataset": strip.dataset,
        "stream": strip.stream,
        "symbol": strip.symbol,
        "day": day.isoformat(),
        **_told(strip.answer),
        **asdict(strip.counts),
        "minutes_per_cell": minutes,
        "cells": list(strip.cells),
    }


def _told(answer: Answer) -> dict[str, Any]:
    out: dict[str, Any] = {
        "answer": answer.answer,
        "judged_by": answer.basis,
        "limit": LIMITS[answer.basis],
        "reason": None,
        "detail": None,
        "spans": [],
        "missing": [],
    }
    if isinstance(answer, Unknown):
        spans = [{"from": from_micros(start), "to": from_micros(end)} for start, end in answer.spans]
        out |= {"reason": answer.reason, "detail": answer.detail, "spans": spans}
    if isinstance(answer, Gaps):
        out["missing"] = [
            asdict(one) | {"from_micros": from_micros(one.from_micros), "to_micros": from_micros(one.to_micros)}
            for one in answer.missing
        ]
        for one in out["missing"]:
            one["from"], one["to"] = one.pop("from_micros"), one.pop("to_micros")
    return out


def _picture(strips: Sequence[Strip], day: date, minutes: int) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("stream", "symbol"):
        table.add_column(name)
    table.add_column(_ruler(day, minutes), no_wrap=True)
    for name in ("messages", "late", "again"):
        table.add_column(name, justify="right")
    table.add_column("answer")
    for one in strips:
        bar = Text()
        for cell in one.cells:
            glyph, style = GLYPHS[cell]
            bar.append(glyph, style)
        counts = (one.counts.messages, one.counts.out_of_order, one.counts.duplicates)
        table.add_row(
            Text(printable(f"{one.dataset}/{one.stream}")),
            Text(printable(one.symbol)),
            bar,
            *map(text_value, counts),
            Text(printable(_in_words(one.answer))),
        )
    return table


def _ruler(day: date, minutes: int) -> Text:
    """Hours above the cells, and the day where there is room for it."""
    width = HOURS_BETWEEN_MARKS * 60 // minutes
    marks = [f"{hour:02}h" for hour in range(0, 24, HOURS_BETWEEN_MARKS)]
    if width >= len(f"00h {day} UTC"):
        marks[0] = f"00h {day} UTC"
    return Text("".join(f"{mark:{width}}" for mark in marks))


def _in_words(answer: Answer) -> str:
    if isinstance(answer, Gaps):
        messages = sum(one.count for one in answer.missing)
        ids = [str(one.gap_id) for one in answer.missing if one.gap_id is not None]
        more = f": k2 gaps show {ids[0]}" + (f" and {len(ids) - 1} more" if len(ids) > 1 else "") if ids else ""
        return f"{messages:,} missing{more}"
    if isinstance(answer, Unknown):
        return f"unknown: {answer.detail or answer.reason}"
    return "complete" if answer.basis == "venue" else f"complete (by the {answer.basis}'s numbers)"


def _legend(strips: Sequence[Strip]) -> str:
    shown = {cell for one in strips for cell in one.cells}
    return "   ".join(f"{GLYPHS[cell][0]} {MEANINGS[cell]}" for cell in CELLS if cell in shown)
