"""Every kind of incident has its page, and is explained where people look first."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

from k2_dagster.alerts.breakers import OpenBreaker, breaker_source
from k2_dagster.alerts.dagster_signals import daemon_reading, run_reading
from k2_dagster.alerts.dagster_storage import FailedRun, Heartbeat, Sensor
from k2_dagster.alerts.leases import lease_reading
from k2_dagster.alerts.recovery import Lost, Trouble, Unserved, recovery_reading
from k2_dagster.alerts.signals import SOURCE_SCOPE, Reading
from k2_dagster.alerts.sources import unreadable_signal
from k2_dagster.settings import Settings
from k2_dagster.state.leases import Lease, Work
from k2_dagster.watch.streams import stream_reading
from tests.reference import REPOSITORY
from tests.watch.test_streams import WELL

OLD = 1e6
PAGE = (REPOSITORY / "docs/alerts.md").read_text()


def readings() -> list[Reading]:
    """One of each kind, checks apart: theirs are held by tests/test_definitions.py."""
    alive, dead = Heartbeat("SENSOR", 1.0), Heartbeat("SCHEDULER", OLD)
    stale, off = Sensor("lag", False, OLD, OLD), Sensor("commits", True, 1.0, 1.0)
    well = Sensor("well", False, 1.0, 1.0)
    halted = replace(WELL, state="halted", problem="gone", lag_seconds=OLD, lag_messages=1)
    return [
        daemon_reading([dead], [], OLD),
        daemon_reading([alive, dead], [stale, off], OLD),
        daemon_reading([alive], [stale, off, well], OLD),
        run_reading([FailedRun("r", "drain", "x", "", "")]),
        lease_reading([Lease("x", work, "host:1", datetime.now(UTC), OLD) for work in get_args(Work)], 60),
        stream_reading([halted], Settings()),
        breaker_source(lambda: [OpenBreaker("market.ticks.x", 0, "a gap")]).read(),
        recovery_reading(Trouble([Lost(1, "x", "ticks", "page", "1 to 9 of A", "gone")], [Unserved("x", 1, OLD)])),
        Reading("sources", (SOURCE_SCOPE,), {f"{SOURCE_SCOPE}streams": unreadable_signal("streams", "away")}),
    ]


def test_every_kind_of_incident_has_a_runbook_and_a_line() -> None:
    kinds = set()
    for reading in readings():
        assert reading.signals
        for key, signal in reading.signals.items():
            kinds.add(key.split("/")[0])
            page = REPOSITORY / f"docs/runbooks/{signal.runbook}.md"
            assert "**What to do**" in page.read_text()
            assert f"runbooks/{signal.runbook}.md" in PAGE
            assert f"`{key.split('/')[0]}/" in PAGE
    assert kinds == {
        "daemon",
        "code-server",
        "sensor",
        "run",
        "lease",
        "stream",
        "lag",
        "breaker",
        "recovery",
        "source",
    }
