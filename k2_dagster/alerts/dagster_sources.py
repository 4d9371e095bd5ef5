"""Dagster's storage as sources: daemons and sensors, asset checks, runs."""

import time
from collections.abc import Callable, Sequence

from k2_dagster.alerts.dagster_signals import (
    CHECK_SCOPES,
    CHECKS,
    DAEMON_SCOPES,
    DAEMON_STALE_SECONDS,
    DAEMONS,
    RUN_SCOPES,
    RUNS,
    SENSOR_DAEMON,
    SETTLE_SECONDS,
    check_reading,
    daemon_reading,
    run_reading,
)
from k2_dagster.alerts.dagster_storage import DagsterStorage, Heartbeat
from k2_dagster.alerts.signals import Reading
from k2_dagster.alerts.sources import Source

# Evaluations and runs come a few times a minute. With months of history and failures everywhere, each of these looks
# costs PostgreSQL half a second.
CHECKS_INTERVAL_SECONDS = 15.0
RUNS_INTERVAL_SECONDS = 15.0


def dagster_sources(storage: DagsterStorage, *, settled: bool = False) -> list[Source]:
    """The three. With `settled`, daemon and sensors are judged at the first look; else after they have had time to
    start, because everything may have been started together."""
    daemons = _Daemons(storage, settled)
    return [
        Source(DAEMONS, DAEMON_SCOPES, daemons.read),
        Source(CHECKS, CHECK_SCOPES, lambda: check_reading(storage.failed_checks()), CHECKS_INTERVAL_SECONDS),
        Source(RUNS, RUN_SCOPES, lambda: run_reading(storage.failed_runs()), RUNS_INTERVAL_SECONDS),
    ]


class _Daemons:
    """Remembers since when the sensors' daemon lives, which its storage does not say."""

    def __init__(self, storage: DagsterStorage, settled: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage = storage
        self._clock = clock
        self._began = clock() - (SETTLE_SECONDS if settled else 0.0)
        self._alive_since = self._began

    def read(self) -> Reading:
        now = self._clock()
        heartbeats = self._storage.heartbeats()
        if _sensors_are_dead(heartbeats):
            self._alive_since = now
        if now - self._began < SETTLE_SECONDS:
            return Reading(DAEMONS, DAEMON_SCOPES, untold=DAEMON_SCOPES)
        return daemon_reading(heartbeats, self._storage.sensors(), now - self._alive_since)


def _sensors_are_dead(heartbeats: Sequence[Heartbeat]) -> bool:
    ages = [one.age_seconds for one in heartbeats if one.daemon == SENSOR_DAEMON]
    return not ages or min(ages) > DAEMON_STALE_SECONDS
