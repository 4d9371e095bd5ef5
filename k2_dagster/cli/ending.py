"""How a command that runs on ends the process after a stop."""

import logging
import os
import sys
import threading
from collections.abc import Callable

import click

from k2_dagster.cli.exits import exit_status
from k2_dagster.errors import K2Error
from k2_dagster.ingest.last_resort import stoppable


def end_when_stopped(work: Callable[[], None], stop: threading.Event) -> None:
    """Do the work. Once stopped, the process ends here: threads may still wait for a server, and taking down the
    interpreter with its libraries costs half a second of processor time, or hangs (apache/arrow#50188)."""
    status = 0
    try:
        stoppable(work, stop)
    except K2Error as error:
        if not stop.is_set():
            raise
        status = exit_status(error)
        click.echo(f"k2: {error}", err=True)
    if stop.is_set():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
