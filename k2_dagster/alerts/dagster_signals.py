"""From what Dagster's storage says to signals. Pure.

A dead daemon hides what depends on it: its sensors cannot be told then, and are not reported beside it. A dead code
server shows as sensors of a living daemon that have all stopped ticking well.
"""

from collections.abc import Sequence

from k2_dagster.alerts.dagster_storage import FailedCheck, FailedRun, Heartbeat, Sensor
from k2_dagster.alerts.signals import Reading, Severity, Signal

DAEMONS, CHECKS, RUNS = "dagster-daemons", "dagster-checks", "dagster-runs"
DAEMON_SCOPES = ("daemon/", "sensor/", "code-server/")
CHECK_SCOPES = ("check/",)
RUN_SCOPES = ("run/",)

# A daemon beats every 30 s, late when a tick takes its time (60 s at most).
DAEMON_STALE_SECONDS = 150.0
# Sensors tick every 5 s, and a tick takes 60 s at most.
SENSOR_STALE_SECONDS = 150.0
# A daemon that starts loads the code first, 5 to 20 s on busy cores, and then ticks at once.
SETTLE_SECONDS = 60.0
SENSOR_DAEMON = "SENSOR"
ALL_DAEMONS = "daemon/all"
# The name of the code location, in workspace.yaml and docker-compose.yml.
CODE_SERVER = "code-server/k2"

SUPERSEDED_CHECKS = frozenset({"freshness"})
"""The incident `lag/EXCHANGE/DATASET` tells the same, of the same bounds, without waiting for a run."""


def daemon_reading(heartbeats: Sequence[Heartbeat], sensors: Sequence[Sensor], alive_seconds: float) -> Reading:
    """Dead daemons, the code server, sensors that are off, stale or failing. `alive_seconds` is how long the sensors'
    daemon is known to live: before it has had time to tick, old ticks say nothing."""
    stale = {one.daemon: one for one in heartbeats if one.age_seconds > DAEMON_STALE_SECONDS}
    signals: dict[str, Signal] = {}
    if len(stale) == len(heartbeats):
        signals[ALL_DAEMONS] = _all_dead(heartbeats)
        return Reading(DAEMONS, DAEMON_SCOPES, signals, untold=("sensor/", "code-server/", *_daemons(stale)))
    signals |= {f"daemon/{name}": _dead(one) for name, one in stale.items()}
    if SENSOR_DAEMON in stale or alive_seconds < SETTLE_SECONDS:
        return Reading(DAEMONS, DAEMON_SCOPES, signals, untold=("sensor/", "code-server/"))
    running = [one for one in sensors if not one.stopped]
    bad = {one.name: one for one in running if one.good_age_seconds > SENSOR_STALE_SECONDS}
    signals |= {f"sensor/{one.name}": _switched_off(one) for one in sensors if one.stopped}
    if running and len(bad) == len(running):
        signals[CODE_SERVER] = _no_code_server(running)
        return Reading(DAEMONS, DAEMON_SCOPES, signals, untold=[f"sensor/{name}" for name in bad])
    signals |= {f"sensor/{name}": _stale_sensor(one) for name, one in bad.items()}
    return Reading(DAEMONS, DAEMON_SCOPES, signals)


def check_reading(failures: Sequence[FailedCheck]) -> Reading:
    """Failed asset checks, one incident per check and partition."""
    signals = {
        f"check/{one.table}/{one.check}/{one.partition}": _failed_check(one)
        for one in failures
        if one.check not in SUPERSEDED_CHECKS
    }
    return Reading(CHECKS, CHECK_SCOPES, signals)


def run_reading(failures: Sequence[FailedRun]) -> Reading:
    """Jobs whose newest finished run failed, one incident per job and exchange. Of one that is being tried again it is
    not known yet how it stands."""
    signals, untold = {}, []
    for one in failures:
        key = f"run/{one.job}/{one.place}" if one.place else f"run/{one.job}"
        if not one.later:
            signals[key] = _failed_run(one)
        elif one.later != "SUCCESS":
            untold.append(key)
    return Reading(RUNS, RUN_SCOPES, signals, untold=[key for key in untold if key not in signals])


def _daemons(stale: dict[str, Heartbeat]) -> tuple[str, ...]:
    return tuple(f"daemon/{name}" for name in stale)


def _all_dead(heartbeats: Sequence[Heartbeat]) -> Signal:
    since = "It has never run here."
    if heartbeats:
        age = duration(min(one.age_seconds for one in heartbeats))
        since = f"None of its threads has given a sign of life for {age}."
    return Signal(
        "critical",
        "Dagster's daemon is dead",
        f"{since} Nothing is drained by runs, checked or retried; `k2 ingest` processes go on.",
        "Start the daemon again, and look at the end of its log for why it ended.",
        "daemon",
    )


def _dead(one: Heartbeat) -> Signal:
    return Signal(
        "critical" if one.daemon in (SENSOR_DAEMON, "QUEUED_RUN_COORDINATOR") else "error",
        f"The daemon thread {one.daemon} is dead",
        f"It has not given a sign of life for {duration(one.age_seconds)}, while others have.",
        "Restart the daemon; its log names what the thread waits for.",
        "daemon",
    )


def _no_code_server(running: Sequence[Sensor]) -> Signal:
    since = f"for {duration(min(one.good_age_seconds for one in running))}"
    return Signal(
        "critical",
        "Dagster's code server cannot be reached",
        f"The daemon lives, but none of the sensors {', '.join(sorted(one.name for one in running))} has ticked well "
        f"{since}. No run can be started.",
        "Look at the code server's process and the end of its log; start it again.",
        "code-server",
    )


def _stale_sensor(one: Sensor) -> Signal:
    ticks = one.tick_age_seconds is not None and one.tick_age_seconds <= SENSOR_STALE_SECONDS
    how = "Its ticks fail" if ticks else "It does not tick"
    return Signal(
        "error",
        f"The sensor {one.name} does not work",
        f"It has not had a tick that went well for {duration(one.good_age_seconds)}. {how}.",
        "Open the sensor in Dagster: its last ticks have the error.",
        "sensor",
    )


def _switched_off(one: Sensor) -> Signal:
    return Signal(
        "warning",
        f"The sensor {one.name} is switched off",
        "Somebody has stopped it in Dagster. It stays off until it is started again.",
        "Start it when the reason is gone.",
        "sensor",
    )


def _failed_check(one: FailedCheck) -> Signal:
    severity: Severity = "warning" if one.severity == "WARN" else "error"
    if one.metadata.get("gaps_halt"):
        severity = "critical"
    return Signal(
        severity,
        f"{one.check} of {one.table} failed for {one.partition}",
        one.description,
        f"Follow the runbook page of {one.check}.",
        one.check,
        run_id=one.run_id,
        asset=one.table,
        partition=one.partition,
    )


def _failed_run(one: FailedRun) -> Signal:
    place = f" for {one.place}" if one.place else ""
    return Signal(
        "error",
        f"The job {one.job} failed{place}",
        one.message or "The run gives no reason.",
        "Open the run: its failure says what to do. The sensors try drains and checks again by themselves.",
        "run",
        run_id=one.run_id,
    )


def duration(seconds: float) -> str:
    """In words that do not change with every look: whole minutes, hours or days, rounded down."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "less than a minute"
