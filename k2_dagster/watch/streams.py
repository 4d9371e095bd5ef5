"""Streams as signals: halted or in trouble (`stream/...`), and messages that wait for too long (`lag/...`)."""

from collections.abc import Sequence
from datetime import UTC, datetime

from k2_dagster.alerts.dagster_signals import duration
from k2_dagster.alerts.signals import Reading, Severity, Signal
from k2_dagster.alerts.sources import Source
from k2_dagster.ingest.halted import PRESSING_SHARE
from k2_dagster.ingest.status import StreamStatus, is_in_use, stream_statuses
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.settings import Settings

STREAMS = "streams"
SCOPES = ("stream/", "lag/")
# A look asks Kafka and every table's head: a tenth of a second of work, and new connections.
INTERVAL_SECONDS = 10.0
# As the check `freshness` has it: twice the target is late, ten times an outage. A test holds both together.
LATE_TARGETS = 2.0
STALE_TARGETS = 10.0
# A transient error that is retried for longer than this is a person's business.
TROUBLE_SECONDS = 120.0


def stream_source(settings: Settings, profiles: Profiles) -> Source:
    """Every stream of the profiles."""

    def read() -> Reading:
        return stream_reading(stream_statuses(settings, profiles, tuple(profiles.exchanges)), settings)

    return Source(STREAMS, SCOPES, read, INTERVAL_SECONDS)


def stream_reading(statuses: Sequence[StreamStatus], settings: Settings, now: datetime | None = None) -> Reading:
    """Pure, of the streams that are in use. Those that could not be told of make the reading a failed one."""
    signals: dict[str, Signal] = {}
    untold: list[str] = []
    failure = ""
    moment = now or datetime.now(UTC)
    for one in (each for each in statuses if is_in_use(each)):
        stream, lag = (f"{scope}{one.exchange}/{one.dataset}" for scope in SCOPES)
        if one.state == "unknown":
            untold += [stream, lag]
            failure = failure or one.problem.splitlines()[0]
            continue
        if (trouble := _trouble(one, moment)) is not None:
            signals[stream] = trouble
        if one.lag_seconds is None:
            untold.append(lag)
        elif (late := _late(one, one.lag_seconds, settings)) is not None:
            signals[lag] = late
    return Reading(STREAMS, SCOPES, signals, untold, failure)


def _trouble(one: StreamStatus, now: datetime) -> Signal | None:
    name = f"{one.dataset} of {one.exchange}"
    if one.state == "halted":
        return _signal("error", f"{name} is halted", one.problem, "stream")
    if one.state in ("waiting", "retrying") and one.since is not None:
        seconds = (now - one.since).total_seconds()
        if seconds >= TROUBLE_SECONDS:
            text = f"{one.problem} (for {duration(seconds)})"
            return _signal("warning", f"{name} is {one.state}", text, "stream")
    if one.state == "ok" and one.problem:
        return _signal("error", f"{name} is held back", one.problem, "stream")
    return None


def _late(one: StreamStatus, seconds: float, settings: Settings) -> Signal | None:
    target = settings.freshness_target_seconds
    if seconds <= LATE_TARGETS * target:
        return None
    severity: Severity = "error" if seconds > STALE_TARGETS * target else "warning"
    text = f"The oldest message that has not landed is {duration(seconds)} old; the target is {target:g} s."
    retention_seconds = settings.kafka_retention_hours * 3_600
    if seconds > PRESSING_SHARE * retention_seconds:
        severity = "critical"
        text += f" Kafka deletes it when it is {duration(retention_seconds)} old."
    return _signal(severity, f"{one.dataset} of {one.exchange} does not land", text, "freshness")


def _signal(severity: Severity, title: str, text: str, runbook: str) -> Signal:
    return Signal(severity, title, text, "`k2 status` shows who drives the stream, and what it met.", runbook)
