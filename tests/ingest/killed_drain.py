"""A drain that kills itself: `python -m tests.ingest.killed_drain POINT NTH EXCHANGE`, with the settings in K2_*."""

import os
import signal
import sys
from threading import Event

from k2_dagster.ingest.drain import drain_exchange
from k2_dagster.lake import expiry
from k2_dagster.observability import points
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import load_settings


def main(point: str, nth: int, exchange: str) -> None:
    """Drain, and end by SIGKILL at the nth time that the point is reached."""
    left = nth

    def reached(name: str) -> None:
        nonlocal left
        left -= name == point
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    points.arm(reached)
    # so that a handful of commits reaches an expiry
    expiry.EXPIRY_SLACK = 1
    settings = load_settings()
    profiles = load_profiles(settings.profiles)
    drain_exchange(settings, profiles, exchange, datasets=["ticks"], cap_seconds=60.0, stop=Event())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
