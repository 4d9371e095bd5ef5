"""Whether Dagster's daemon lives: `k2 status` and the incident say the same."""

import math

from hypothesis import example, given
from hypothesis import strategies as st

from k2_dagster.alerts.dagster_signals import ALL_DAEMONS, DAEMON_STALE_SECONDS, SENSOR_DAEMON, daemon_reading
from k2_dagster.alerts.dagster_storage import Heartbeat
from k2_dagster.ingest.unleased import unleased_driver


@given(st.floats(0.0, 4 * DAEMON_STALE_SECONDS))
@example(DAEMON_STALE_SECONDS)
def test_status_calls_it_dead_when_there_is_an_incident(silent: float) -> None:
    reading = daemon_reading([Heartbeat(SENSOR_DAEMON, silent)], [], 0.0)
    assert (unleased_driver(silent) == "none") is (ALL_DAEMONS in reading.signals)


def test_one_that_was_never_heard_is_dead() -> None:
    assert unleased_driver(math.inf) == "none"
    assert ALL_DAEMONS in daemon_reading([], [], 0.0).signals


def test_what_cannot_be_asked_is_unknown() -> None:
    assert unleased_driver(None) == "unknown"
