"""How a long command says where it is: one line that is renewed on a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click
from rich.console import Console
from rich.status import Status
from rich.text import Text

Report = TypeVar("Report")

# How often the line of a terminal is renewed.
RENEWED_SECONDS = 0.5
# How often a log gets a line.
LOGGED_SECONDS = 30.0


class ProgressLine:
    """Shows the newest text, no oftener than it can be read. To standard error: the answer is on standard output."""

    def __init__(self, status: Status | None) -> None:
        self._status = status
        self._every = RENEWED_SECONDS if status is not None else LOGGED_SECONDS
        self._shown = time.monotonic()

    def telling(self, text: Callable[[Report], str]) -> Callable[[Report], None]:
        """What a worker calls with its report, however often: the text is made only when it is shown."""

        def tell(report: Report) -> None:
            if self._is_due:
                self.show(text(report))

        return tell

    def show(self, text: str) -> None:
        """Show it if it is due."""
        if not self._is_due:
            return
        self._shown = time.monotonic()
        if self._status is not None:
            # As Text: what is between brackets in a name is not markup
            self._status.update(Text(text))
        else:
            click.echo(text, err=True)

    @property
    def _is_due(self) -> bool:
        return time.monotonic() - self._shown >= self._every


@contextmanager
def progress_line(first: str) -> Iterator[ProgressLine]:
    """A line that begins with this text, and is gone at the end."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield ProgressLine(None)
        return
    with console.status(Text(first)) as status:
        yield ProgressLine(status)
