"""What Dagster's storage says, as signals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.alerts.dagster_signals import (
    ALL_DAEMONS,
    CODE_SERVER,
    DAEMON_STALE_SECONDS,
    SENSOR_STALE_SECONDS,
    SETTLE_SECONDS,
    check_reading,
    daemon_reading,
    duration,
    run_reading,
)
from k2_dagster.alerts.dagster_storage import FailedCheck, FailedRun, Heartbeat, Sensor

FRESH, OLD = 10.0, 10_000.0
NAMES = ("SENSOR", "SCHEDULER", "MONITORING")
ages = st.sampled_from([FRESH, DAEMON_STALE_SECONDS, DAEMON_STALE_SECONDS + 1, OLD])


def beats(**at: float) -> list[Heartbeat]:
    return [Heartbeat(name, at.get(name, FRESH)) for name in NAMES]


def sensor(name: str, good: float = FRESH, *, ticks: float | None = FRESH, stopped: bool = False) -> Sensor:
    return Sensor(name, stopped, ticks, good)


ALL_WELL = [sensor("lag"), sensor("commits")]


def test_all_well() -> None:
    found = daemon_reading(beats(), ALL_WELL, OLD)
    assert found.signals == {}
    assert all(found.tells(key) for key in ("daemon/SENSOR", ALL_DAEMONS, "sensor/lag", CODE_SERVER))


def test_a_dead_daemon_is_one_incident_and_hides_what_depends_on_it() -> None:
    found = daemon_reading([Heartbeat(name, OLD) for name in NAMES], [sensor("lag", OLD)], OLD)
    assert list(found.signals) == [ALL_DAEMONS]
    assert found.signals[ALL_DAEMONS].severity == "critical"
    assert not any(found.tells(key) for key in ("daemon/SENSOR", "sensor/lag", CODE_SERVER))


def test_a_daemon_that_never_ran_is_dead() -> None:
    found = daemon_reading([], [], OLD)
    assert "never" in found.signals[ALL_DAEMONS].text


def test_one_dead_thread_is_named() -> None:
    found = daemon_reading(beats(SCHEDULER=OLD), ALL_WELL, OLD)
    assert {key: one.severity for key, one in found.signals.items()} == {"daemon/SCHEDULER": "error"}
    found = daemon_reading(beats(SENSOR=OLD), [sensor("lag", OLD)], OLD)
    assert {key: one.severity for key, one in found.signals.items()} == {"daemon/SENSOR": "critical"}
    assert not found.tells("sensor/lag")


def test_no_code_server_shows_as_sensors_that_all_stopped() -> None:
    off = sensor("off", OLD, stopped=True)
    found = daemon_reading(beats(), [sensor("lag", OLD), sensor("commits", OLD, ticks=OLD), off], OLD)
    assert {key: one.severity for key, one in found.signals.items()} == {
        CODE_SERVER: "critical",
        "sensor/off": "warning",
    }
    assert not found.tells("sensor/lag")


def test_one_stale_sensor_is_not_the_code_server() -> None:
    found = daemon_reading(beats(), [sensor("lag", OLD), sensor("commits")], OLD)
    assert list(found.signals) == ["sensor/lag"]
    assert "ticks fail" in found.signals["sensor/lag"].text
    found = daemon_reading(beats(), [sensor("lag", OLD, ticks=OLD), sensor("commits")], OLD)
    assert "does not tick" in found.signals["sensor/lag"].text


def test_old_ticks_say_nothing_of_a_daemon_that_has_just_come_back() -> None:
    found = daemon_reading(beats(), [sensor("lag", OLD)], SETTLE_SECONDS - 1)
    assert found.signals == {}
    assert not found.tells(CODE_SERVER)
    assert found.tells(ALL_DAEMONS)


@given(st.fixed_dictionaries(dict.fromkeys(NAMES, ages)), st.lists(st.tuples(ages, st.booleans()), max_size=3))
def test_every_signal_is_one_that_the_reading_tells(at: dict[str, float], given_: list[tuple[float, bool]]) -> None:
    sensors = [sensor(f"s{number}", good, stopped=off) for number, (good, off) in enumerate(given_)]
    found = daemon_reading(beats(**at), sensors, OLD)
    assert all(found.tells(key) for key in found.signals)
    stale = {name for name, age in at.items() if age > DAEMON_STALE_SECONDS}
    assert (ALL_DAEMONS in found.signals) == (stale == set(NAMES))
    if "SENSOR" in at and at["SENSOR"] <= DAEMON_STALE_SECONDS:
        bad = [one for one in sensors if not one.stopped and one.good_age_seconds > SENSOR_STALE_SECONDS]
        assert bool(bad) == any(key == CODE_SERVER or (found.signals[key].severity == "error" and "sensor/" in key)
                                for key in found.signals)  # fmt: skip


def failed(check: str = "accounting", severity: str = "ERROR", **metadata: int) -> FailedCheck:
    return FailedCheck("ticks", check, "binance|2026-11-26", severity, "3 rows", "r1", metadata)


@pytest.mark.parametrize(
    ("one", "severity"),
    [
        (failed(), "error"),
        (failed(severity="WARN"), "warning"),
        (failed("sequence_gaps", gaps_halt=0), "error"),
        (failed("sequence_gaps", gaps_halt=2), "critical"),
    ],
)
def test_a_failed_check_is_keyed_by_check_and_partition(one: FailedCheck, severity: str) -> None:
    ((key, signal),) = check_reading([one]).signals.items()
    assert key == f"check/ticks/{one.check}/binance|2026-11-26"
    assert (signal.severity, signal.runbook, signal.partition) == (severity, one.check, "binance|2026-11-26")


def test_freshness_is_told_as_lag() -> None:
    assert check_reading([failed("freshness")]).signals == {}


@pytest.mark.parametrize(
    ("later", "stands", "told"),
    [
        ("", True, True),
        ("SUCCESS", False, True),
        ("QUEUED", False, False),
        ("STARTED", False, False),
    ],
)
def test_a_failed_run_stands_until_one_went_well(later: str, stands: bool, told: bool) -> None:
    found = run_reading([FailedRun("r1", "drain", "binance", "no broker", later)])
    assert (list(found.signals) == ["run/drain/binance"], found.tells("run/drain/binance")) == (stands, told)


def test_a_run_without_a_place_is_its_job() -> None:
    assert list(run_reading([FailedRun("r1", "prune", "", "", "")]).signals) == ["run/prune"]


def test_durations_change_slowly() -> None:
    assert [duration(one) for one in (59, 60, 3_599, 3_600, 90_000)] == [
        "less than a minute",
        "1 min",
        "59 min",
        "1 h",
        "1 d",
    ]
