"""A delivery that kills itself: `python -m tests.alerts.killed_delivery POINT URL`, settings in K2_*."""

import os
import signal
import sys
from threading import Event

from k2_dagster.alerts.delivery import Deliverer
from k2_dagster.alerts.targets import parse_targets
from k2_dagster.observability import points
from k2_dagster.settings import load_settings
from k2_dagster.state.database import Database


def main(point: str, url: str) -> None:
    """Deliver what is due, and end by SIGKILL when the point is reached."""

    def reached(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    points.arm(reached)
    Deliverer(Database(load_settings()), Event()).deliver(parse_targets(url))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
