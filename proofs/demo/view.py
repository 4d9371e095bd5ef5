"""The demo's terminal view: figures above, events below. Without a terminal it prints the events only."""

import time
from collections import deque

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from proofs.demo.plan import Line
from proofs.demo.state import Totals

# Events that fit beside the figures on a small terminal.
EVENTS_SHOWN = 12
REFRESHES_PER_SECOND = 4


class View:
    """A context manager around the live display."""

    def __init__(self, title: str) -> None:
        self.console = Console()
        self.title = title
        self.started = time.monotonic()
        self._events: deque[str] = deque(maxlen=EVENTS_SHOWN)
        self._live = Live(console=self.console, refresh_per_second=REFRESHES_PER_SECOND, transient=False)
        self._totals = Totals()

    def __enter__(self) -> "View":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def event(self, text: str) -> None:
        """Add a line to the event log."""
        line = f"{time.monotonic() - self.started:6.1f} s  {text}"
        if self.console.is_terminal:
            self._events.append(line)
            self.show(self._totals)
        else:
            self.console.print(line, highlight=False)

    def show(self, totals: Totals) -> None:
        """Draw the figures anew."""
        self._totals = totals
        if self.console.is_terminal:
            self._live.update(Panel(Group(_figures(totals), Text(""), *map(Text, self._events)), title=self.title))


def _figures(totals: Totals) -> Table:
    grid = Table.grid(padding=(0, 4))
    for _ in range(6):
        grid.add_column(justify="right")
    grid.add_row(*(Text(name, style="dim") for name in _NAMES))
    grid.add_row(
        f"{totals.messages:,}",
        f"{totals.rows:,}",
        f"{totals.quarantined:,}",
        f"{totals.lag_messages:,}",
        f"{totals.commit_milliseconds(50):.0f} / {totals.commit_milliseconds(99):.0f} ms",
        f"{len(totals.runs):,}",
    )
    return grid


_NAMES = ("messages in", "rows in Iceberg", "quarantined", "lag", "commit p50 / p99", "Dagster runs")


def closing(lines: list[Line]) -> Table:
    """Planted beside found."""
    table = Table("", "planted", "found", "", title="Planted and found", title_justify="left", box=None, padding=(0, 2))
    for line in lines:
        mark = Text("ok", style="green") if line.holds else Text("WRONG", style="bold red")
        table.add_row(line.what, f"{line.planted:,}", f"{line.found:,}", mark)
    return table
