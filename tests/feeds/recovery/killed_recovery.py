"""A recovery that kills itself: `python -m tests.feeds.recovery.killed_recovery POINT EXCHANGE`, settings in K2_*."""

import os
import signal
import sys
from threading import Event

from k2_dagster.feeds.recovery.worker import RecoveryReport, Worker
from k2_dagster.observability import points
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import load_settings
from tests.feeds.recovery.faking import FakeSource


def main(point: str, exchange: str) -> None:
    """Recover once, and end by SIGKILL when the point is reached."""

    def reached(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    points.arm(reached)
    settings = load_settings()
    profiles = load_profiles(settings.profiles)
    report = RecoveryReport(exchange, "fake")
    with Worker(settings, profiles, exchange, FakeSource(), report=report, stop=Event()) as worker:
        worker.once()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
