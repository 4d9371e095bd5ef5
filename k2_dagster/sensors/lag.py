"""The lag sensor: Kafka's ends beside the fences, and a drain run where messages wait (DESIGN D7).

An exchange is drained when `drain_min_rows` messages wait, or when messages may have waited for
`freshness_target_seconds` (counted from the last tick that did not see them, kept in the cursor), and no unfinished run
carries its `k2/stream` tag. There is no run key: a key once used is skipped for ever, also after a failed run. After a
failure the next run waits, longer each time. Exchanges that a living `k2 ingest` process holds are left alone, and
taken over in the tick that finds the lease stale or given back.

A tick that finds nothing new writes nothing to its log, which Dagster keeps as a file of its own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta

import dagster as dg

from k2_dagster.assets.unstable import sensor
from k2_dagster.errors import NotInitialized
from k2_dagster.ingest.lag import LagReport
from k2_dagster.jobs import drain_job, drain_run_config
from k2_dagster.resources.platform import Platform
from k2_dagster.resources.tags import INGEST_LANE, LANE_TAG, STREAM_TAG, UNFINISHED, drain_tags
from k2_dagster.sensors.observing import observe
from k2_dagster.sensors.problems import Problems, changes, problems
from k2_dagster.settings import Settings
from k2_dagster.state.leases import read_leases

# Dagster's loop is 5 s; an interval of 5 would alternate 5 and 10, one below gives a steady 5.
MINIMUM_INTERVAL_SECONDS = 1
# Wait after a failed run: doubled with each failure within the window, up to the longest.
FIRST_RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 300.0
FAILURE_WINDOW = timedelta(minutes=15)
# Failed runs looked at in a tick; more than this in the window and every exchange waits the longest anyway.
FAILURES_READ = 200
# Unfinished drains: one per exchange at most, and those that the queue holds back.
UNFINISHED_READ = 1_000
# Problems that the tick's reason spells out; all of them were logged when they came up.
PROBLEMS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed drains of one exchange within the window."""

    count: int
    last_ended: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What the cursor holds (epoch seconds): by exchange, since when messages may have waited and when we last launched
    a run; when the last tick was; which exchanges were leased; by topic, what was wrong with it and when it was
    observed (with the sum of its ends)."""

    waiting_since: Mapping[str, float] = field(default_factory=dict)
    launched_at: Mapping[str, float] = field(default_factory=dict)
    ticked_at: float | None = None
    leased: Sequence[str] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    observed: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    @classmethod
    def load(cls, cursor: str | None) -> "Memory":
        """From a cursor; an empty one knows nothing."""
        if not cursor:
            return cls()
        found = json.loads(cursor)
        observed = {topic: (float(at), int(total)) for topic, (at, total) in found.pop("observed", {}).items()}
        return cls(**found, observed=observed)

    def dump(self) -> str:
        """As a cursor."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Decision:
    """Exchanges to drain, and the next tick's memory."""

    launch: list[str]
    memory: Memory


def decide(
    lags: Mapping[str, int],
    draining: set[str],
    leased: set[str],
    failures: Mapping[str, Failures],
    memory: Memory,
    now: float,
    settings: Settings,
) -> Decision:
    """Which exchanges to drain now. `lags` are messages that wait, by exchange; `draining` have an unfinished run,
    `leased` a living process."""
    launch: list[str] = []
    waiting: dict[str, float] = {}
    for exchange, messages in sorted(lags.items()):
        if messages <= 0 or exchange in draining:
            continue
        # messages first seen now may be as old as the last look, or have waited for ever when there was none
        since = waiting[exchange] = memory.waiting_since.get(exchange, memory.ticked_at or 0.0)
        if exchange in leased or _must_wait(failures.get(exchange), now):
            continue
        left = exchange in memory.leased
        long_enough = now - since >= settings.freshness_target_seconds
        ours_failed = _failed_since(failures.get(exchange), memory.launched_at.get(exchange, now))
        if messages >= settings.drain_min_rows or long_enough or ours_failed or left:
            launch.append(exchange)
            del waiting[exchange]
    launched = {**memory.launched_at, **dict.fromkeys(launch, now)}
    after = replace(memory, waiting_since=waiting, launched_at=launched, ticked_at=now, leased=sorted(leased))
    return Decision(launch, after)


def _must_wait(failed: Failures | None, now: float) -> bool:
    return failed is not None and now < failed.last_ended + retry_seconds(failed.count)


def _failed_since(failed: Failures | None, launched_at: float) -> bool:
    return failed is not None and failed.last_ended >= launched_at


def retry_seconds(failures: int) -> float:
    """Wait after so many failed runs."""
    return min(FIRST_RETRY_SECONDS * 2.0 ** (failures - 1), LONGEST_RETRY_SECONDS)


@sensor(
    name="lag",
    job=drain_job,
    minimum_interval_seconds=MINIMUM_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Launches a drain run for each exchange whose topics are ahead of the tables.",
)
def lag_sensor(context: dg.SensorEvaluationContext, k2: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """One tick. Raises the first error only when not a single stream could be looked at."""
    now = datetime.now(UTC)
    memory = Memory.load(context.cursor)
    try:
        report = k2.lag.read(sorted(k2.profiles.exchanges))
        found = problems(k2, report)
    except NotInitialized as error:
        return dg.SensorResult(skip_reason=f"there is nothing to look at yet: {error}")
    _tell(context, memory.problems, found)
    if found.by_topic and not report.lags:
        raise next(iter(found.by_topic.values()))
    draining, leased = unfinished_streams(context.instance), leased_exchanges(k2)
    failures = failed_streams(context.instance, now)
    decision = decide(by_exchange(report), draining, leased, failures, memory, now.timestamp(), k2.settings)
    seen, observed = observe(report.lags, memory.observed, now.timestamp())
    return dg.SensorResult(
        run_requests=[_request(exchange, k2.settings) for exchange in decision.launch] or None,
        skip_reason=None if decision.launch else skip_reason(report, found, draining | leased),
        asset_events=seen,
        cursor=replace(decision.memory, problems=found.told(), observed=observed).dump(),
    )


def _tell(context: dg.SensorEvaluationContext, before: Mapping[str, str], found: Problems) -> None:
    """Log what has changed."""
    new, mended = changes(before, found.told())
    for topic in sorted(new):
        context.log.error("%s: %s", topic, found.by_topic[topic])
    for topic in mended:
        context.log.info("%s can be looked at again", topic)


def by_exchange(report: LagReport) -> dict[str, int]:
    """Messages that wait, by exchange, over all datasets that could be looked at."""
    out: dict[str, int] = {}
    for one in report.lags:
        out[one.exchange] = out.get(one.exchange, 0) + one.lag_messages
    return out


def skip_reason(report: LagReport, found: Problems, occupied: set[str]) -> str:
    """Why nothing was launched, with the topics that could not be looked at."""
    behind = {exchange: messages for exchange, messages in by_exchange(report).items() if messages}
    parts = ["nothing waits"]
    if behind:
        words = [f"{name} {count}{' (being drained)' if name in occupied else ''}" for name, count in behind.items()]
        parts = [f"waiting: {', '.join(words)}"]
    if found.not_initialised:
        parts.append(f"{len(found.not_initialised)} exchanges of the profiles are not initialised")
    if found.by_topic:
        shown = [f"{topic}: {text}" for topic, text in found.told().items()][:PROBLEMS_SHOWN]
        parts.append(f"{len(found.by_topic)} topics not looked at: {'; '.join(shown)}")
    return ". ".join(parts)


def unfinished_streams(instance: dg.DagsterInstance) -> set[str]:
    """Exchanges with a drain run that has not ended."""
    runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED, tags={LANE_TAG: INGEST_LANE}), limit=UNFINISHED_READ)
    return {run.tags[STREAM_TAG] for run in runs if STREAM_TAG in run.tags}


def failed_streams(instance: dg.DagsterInstance, now: datetime) -> dict[str, Failures]:
    """Failed drains within the window, by exchange."""
    failed = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE], tags={LANE_TAG: INGEST_LANE}, updated_after=now - FAILURE_WINDOW
    )
    out: dict[str, Failures] = {}
    for record in instance.get_run_records(failed, limit=FAILURES_READ):
        exchange = record.dagster_run.tags.get(STREAM_TAG)
        if exchange is not None:
            ended = record.end_time or record.update_timestamp.timestamp()
            before = out.get(exchange, Failures(0, 0.0))
            out[exchange] = Failures(before.count + 1, max(before.last_ended, ended))
    return out


def leased_exchanges(k2: Platform) -> set[str]:
    """Exchanges that a living process drains. A lease without a heartbeat for `lease_stale_seconds` does not count."""
    stale_seconds = k2.settings.lease_stale_seconds
    return {one.exchange for one in read_leases(k2.database).values() if one.age_seconds < stale_seconds}


def _request(exchange: str, settings: Settings) -> dg.RunRequest:
    return dg.RunRequest(
        run_config=drain_run_config(exchange), tags=drain_tags(exchange, settings.ingest_run_cap_seconds)
    )
