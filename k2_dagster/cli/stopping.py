"""One way to end a command that runs on: the first Ctrl-C or SIGTERM ends it cleanly, the second gives up waiting."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

import click

from k2_dagster.cli.exits import INTERRUPTED
from k2_dagster.errors import DeliveryTimedOut, K2Error
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


@contextmanager
def telling_how_far(stop: Stop, tell: Callable[[], None]) -> Iterator[None]:
    """For a block that publishes: what was done is told before an error goes on. Who gives up what Kafka has not taken
    knows that it was not delivered: then the block has just ended."""
    try:
        yield
    except K2Error as error:
        if not (isinstance(error, DeliveryTimedOut) and stop.given_up.is_set()):
            tell()
            raise


def exit_interrupted(undelivered: int = 0) -> NoReturn:
    """End a command that was asked to end; says how many messages were given up, if any."""
    if undelivered:
        click.echo(f"gave up {undelivered:,} messages that Kafka had not taken", err=True)
    sys.exit(INTERRUPTED)
