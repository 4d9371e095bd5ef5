"""One way to end a command that runs on: the first Ctrl-C or SIGTERM ends it cleanly, the second gives up waiting."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import click

from k2_dagster.feeds.delivery import Waiting

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Stop:
    """`asked`: end cleanly. `given_up`: do not even wait for Kafka. Both are set by signals and only read elsewhere."""

    asked: threading.Event = field(default_factory=threading.Event)
    given_up: threading.Event = field(default_factory=threading.Event)

    @property
    def waiting(self) -> Waiting:
        """For a publisher: how it says that it waits, and when it gives up."""
        return Waiting(self._tell, self.given_up)

    def _tell(self, left: int) -> None:
        if self.asked.is_set():
            click.echo(f"waiting for Kafka, Ctrl-C again to give up {left:,} messages", err=True)
        else:
            click.echo(f"Kafka takes no messages, {left:,} wait; Ctrl-C to stop", err=True)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turns the signals into a Stop, and gives them back at the end."""
    stop = Stop()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.asked.is_set():
            stop.given_up.set()
        stop.asked.set()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say_given_up(undelivered: int) -> None:
    """What became of messages that were accepted when somebody did not want to wait for them."""
    if undelivered:
        click.echo(f"gave up {undelivered:,} messages that Kafka had not taken", err=True)
