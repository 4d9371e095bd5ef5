"""The demo's terminal view: figures above, events below, 80 columns. Without a terminal it prints the events only."""

import threading
import time
from collections import deque

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from proofs.demo.plan import Line
from proofs.demo.state import Totals

# Events that fit beside the figures on a terminal of 24 lines.
EVENTS_SHOWN = 15
REFRESHES_PER_SECOND = 4
WIDTH_CHARACTERS = 80


class View:
    """A context manager around the live display. Events may come from any thread."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.console = console or Console()
        self.title = title
        self.started = time.monotonic()
        self._events: deque[str] = deque(maxlen=EVENTS_SHOWN)
        self._live = Live(console=self.console, refresh_per_second=REFRESHES_PER_SECOND, transient=False)
        self._totals = Totals()
        self._drawing = threading.Lock()

    def __enter__(self) -> "View":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def event(self, text: str) -> None:
        """Add a line to the event log."""
        line = f"{time.monotonic() - self.started:5.0f} s  {text}"
        with self._drawing:
            if self.console.is_terminal:
                self._events.append(line)
                self._draw()
            else:
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(self, totals: Totals) -> None:
        """Draw the figures anew."""
        with self._drawing:
            self._totals = totals
            self._draw()

    def _draw(self) -> None:
        if self.console.is_terminal:
            lines = [Text(one, no_wrap=True, overflow="ellipsis") for one in self._events]
            body = Group(figures(self._totals), Text(""), *lines)
            self._live.update(Panel(body, title=self.title, width=min(WIDTH_CHARACTERS, self.console.width)))


def figures(totals: Totals) -> Table:
    """The figures of now, in a row."""
    grid = Table.grid(padding=(0, 2))
    for _ in _NAMES:
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


_NAMES = ("messages in", "rows in Iceberg", "quarantined", "lag", "commit p50 / p99", "runs")


def closing(lines: list[Line]) -> Table:
    """Planted beside found."""
    table = Table("", "planted", "found", "", title="Planted and found", title_justify="left", box=None, padding=(0, 2))
    for line in lines:
        mark = Text("ok", style="green") if line.holds else Text("WRONG", style="bold red")
        planted = "-" if line.planted is None else f"{line.planted:,}"
        table.add_row(line.what, planted, f"{line.found:,}", mark)
    return table
