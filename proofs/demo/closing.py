"""What the demo says at its end: planted beside found, a query, links to open, lines to copy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from k2_dagster.cli.common import emit
from k2_dagster.query.engine import QueryEngine
from k2_dagster.settings import Settings
from k2_dagster.verify.report import Report
from proofs.demo.killing import Killer
from proofs.demo.plan import FIRST_ROWS_SECONDS, Line, fault_lines
from proofs.demo.state import Totals
from proofs.demo.view import View, closing

GAPS_CHECK = "sequence_gaps"


@dataclass
class Outcome:
    """What the closing needs to know. `truth` is what was planted, None for a capture; `report` is None when the
    comparison was interrupted."""

    totals: Totals
    gaps: Sequence[Mapping[str, Any]]
    truth: list[dict[str, Any]] | None
    killer: Killer
    first_rows_seconds: float | None
    report: Report | None
    caught_up: bool
    interrupted: bool = False
    checks: Sequence[Mapping[str, Any]] = ()

    def lines(self) -> list[Line]:
        """The closing table."""
        # A capture may be over before a run can be killed at work, and so may a feed that a person ends
        must = self.killer.armed and self.truth is not None and not self.interrupted
        killed = int(must or self.killer.run is not None)
        lines = fault_lines(self.truth, self.gaps, self.totals.reasons)
        lines.append(Line("killed runs", killed, int(self.killer.done)))
        if self.report is not None:
            lines += [Line(fault, 0, self.report.count(fault)) for fault in ("missing", "extra")]
        return lines

    def holds(self) -> bool:
        """The verdict: found is what was planted, and the proof is clean."""
        clean = self.report is not None and self.report.clean
        return clean and self.caught_up and all(line.holds for line in self.lines())


def tell(outcome: Outcome, view: View) -> None:
    """The closing table, the proof and the first rows."""
    view.console.print(closing(outcome.lines()))
    totals = outcome.totals
    counts = f"{totals.messages:,} messages, {totals.rows:,} rows, {totals.quarantined:,} quarantined"
    verdict = "interrupted" if outcome.report is None else "clean" if outcome.report.clean else "NOT CLEAN"
    click.echo(f"\nk2 verify: {verdict}: {counts}")
    for finding in outcome.report.findings() if outcome.report is not None else ():
        click.echo(f"  {finding}")
    click.echo(first_rows(outcome.first_rows_seconds))
    failed = [one for one in outcome.checks if not one["passed"]]
    if outcome.checks:
        click.echo(f"checks of ticks: {len(outcome.checks)}, not passed: {len(failed)}")
    for one in failed:
        click.echo(f"  {one['check']}: {one['summary']}")


def first_rows(seconds: float | None) -> str:
    """The figure beside its promise."""
    promise = f"{FIRST_ROWS_SECONDS:.0f} were promised"
    if seconds is None:
        return f"first rows in Iceberg: none ({promise})"
    mark = "ok" if seconds <= FIRST_ROWS_SECONDS else "LATE"
    return f"first rows in Iceberg: {seconds:.1f} s after the installation ({promise}): {mark}"


def ask(settings: Settings, exchange: str) -> None:
    """One query with its answer."""
    query = (
        "SELECT symbol, count(*) AS trades, sum(price * volume) / sum(volume) AS vwap\n"
        f"FROM market_data.ticks WHERE exchange = '{exchange}'\n"
        "GROUP BY symbol ORDER BY trades DESC LIMIT 5"
    )
    click.echo(f"\n{query}\n")
    with QueryEngine(settings) as engine:
        emit(engine.query(query).to_pylist(), as_json=False)


def links(url: str, exchange: str, day: str) -> dict[str, str]:
    """What to open in the browser."""
    partition = quote(f"{day}|{exchange}", safe="")
    return {
        "partition grid of ticks": f"{url}/assets/ticks?view=partitions&partition={partition}",
        "the check of sequence gaps, with their ranges": f"{url}/assets/ticks?view=checks&checkDetail={GAPS_CHECK}",
        "lineage": f"{url}/assets/ticks?view=lineage",
    }


def copy_lines(k2: Path, exchange: str, day: str) -> list[str]:
    """Commands that go on from here, in the folder of the demo."""
    command = k2.relative_to(Path.cwd()) if k2.is_relative_to(Path.cwd()) else k2
    return [
        f'{command} query "SELECT * FROM market_data.ticks LIMIT 5"',
        f"{command} check run --table ticks --exchange {exchange} --day {day}",
        f"{command} verify --exchange {exchange}",
    ]


def point(url: str, exchange: str, day: str, k2: Path) -> None:
    """Links and lines."""
    click.echo("\nIn the browser:")
    for name, link in links(url, exchange, day).items():
        click.echo(f"  {name}\n    {link}")
    click.echo("\nTo copy:")
    for line in copy_lines(k2, exchange, day):
        click.echo(f"  {line}")
