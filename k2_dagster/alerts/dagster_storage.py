"""Dagster's storage on PostgreSQL, read by SQL: the one place outside Dagster's rooms that knows its tables (1.13).

    daemon_heartbeats        a row per daemon thread; `timestamp` is UTC without a zone, every 30 s
    instigators              a row per sensor; the body (JSON) has its name and its last ticks, epoch seconds
    runs, run_tags           `status`, `pipeline_name` (the job), `partition`; the tag k2/stream names the exchange
    event_logs               one row per event; the body (JSON) has a failure's message
    kvs                      K2's own notes of failures that stand, `k2/standing/TABLE` (assets/standing.py)
    asset_check_executions   a row per evaluation; PLANNED, SUCCEEDED or FAILED

Everything is read in a transaction that writes nothing, on an engine of its own with K2's limits of time. Nothing is
cached. Ages are by that database's clock.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from k2_dagster.errors import DatabaseMismatch, NotInitialized
from k2_dagster.observability.stopping import NEVER
from k2_dagster.state.database import translate
from k2_dagster.state.engine import make_engine

STREAM_TAG = "k2/stream"
"""Whose stream a run drains (resources/tags.py, which imports dagster; a test holds both together)."""
STANDING_KEY = "k2/standing/"
"""Where failures that stand are noted (assets/standing.py)."""
# Hourly and nightly jobs have run again by then, or nobody cares for the one that failed.
RUN_WINDOW_HOURS = 72
# Keys with a failed run that are told; when more jobs fail at once, they fail for one reason.
FAILED_RUNS_READ = 200
# Of an error's message, which may hold a whole stack trace.
MESSAGE_CHARACTERS = 1_000

_HEARTBEATS = text("""
    SELECT daemon_type, extract(epoch FROM (clock_timestamp() AT TIME ZONE 'UTC') - timestamp) AS age
    FROM daemon_heartbeats
""")
# A failed tick removes the time of the last good one from the body, so that comes from the ticks.
_SENSORS = text("""
    SELECT instigator_body AS body, status, extract(epoch FROM clock_timestamp()) AS now,
           extract(epoch FROM (clock_timestamp() AT TIME ZONE 'UTC') - (
               SELECT timestamp FROM job_ticks WHERE job_ticks.selector_id = instigators.selector_id
               AND job_ticks.status IN ('SUCCESS', 'SKIPPED') ORDER BY timestamp DESC LIMIT 1)) AS good_age
    FROM instigators WHERE instigator_type = 'SENSOR'
""")
# Runs after a failed one, of its job, exchange and partition.
_NEWER = """
    SELECT newer.status FROM runs newer
    LEFT JOIN run_tags stream ON stream.run_id = newer.run_id AND stream.key = :tag
    WHERE newer.pipeline_name = failed.job AND newer.id > failed.id
      AND stream.value IS NOT DISTINCT FROM failed.exchange AND newer.partition IS NOT DISTINCT FROM failed.partition
"""
# The newest failed run of each job and exchange, and how it went on. With a success, which mostly comes soon after the
# failure, it is found by going forward from there: hundreds of thousands of runs may have followed since.
_FAILED_RUNS = text(f"""
    WITH failed AS (
        SELECT DISTINCT ON (runs.pipeline_name, stream.value, runs.partition)
               runs.id, runs.run_id, runs.pipeline_name AS job, stream.value AS exchange, runs.partition
        FROM runs LEFT JOIN run_tags stream ON stream.run_id = runs.run_id AND stream.key = :tag
        WHERE runs.status = 'FAILURE'
          AND runs.update_timestamp > (clock_timestamp() AT TIME ZONE 'UTC') - make_interval(hours => :hours)
        ORDER BY runs.pipeline_name, stream.value, runs.partition, runs.id DESC
        LIMIT :most
    )
    SELECT failed.*,
           ({_NEWER} AND newer.status = 'SUCCESS' ORDER BY newer.id LIMIT 1) AS success,
           ({_NEWER} AND newer.status IN ('NOT_STARTED', 'QUEUED', 'STARTING', 'STARTED', 'CANCELING')
            LIMIT 1) AS under_way,
           (SELECT event FROM event_logs WHERE event_logs.run_id = failed.run_id
            AND dagster_event_type IN ('STEP_FAILURE', 'PIPELINE_FAILURE', 'RUN_FAILURE')
            ORDER BY id LIMIT 1) AS event
    FROM failed
""")
_STANDING = text("SELECT key, value FROM kvs WHERE key LIKE :prefix")
# Of one check, by the index on asset and check; ordering by id alone would make it walk through the whole table.
_NEWEST_EVALUATIONS = text("""
    SELECT partition, run_id, evaluation_event AS event FROM asset_check_executions
    WHERE execution_status = 'FAILED' AND id IN (
        SELECT max(id) FROM asset_check_executions
        WHERE asset_key = :asset AND check_name = :check AND partition = ANY(:partitions)
          AND execution_status <> 'PLANNED'
        GROUP BY partition
    )
    ORDER BY partition
""")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """When a daemon thread was last alive."""

    daemon: str
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Sensor:
    """A sensor as the daemon keeps it. `tick_age_seconds` since any tick (None: there was none), `good_age_seconds`
    since one that went well, or since it was switched on."""

    name: str
    stopped: bool
    tick_age_seconds: float | None
    good_age_seconds: float


@dataclass(frozen=True, slots=True)
class FailedRun:
    """The newest failed run of a job and exchange (or partition). `later` is SUCCESS if a run after it went well, else
    the status of one that is under way; empty when there is none."""

    run_id: str
    job: str
    place: str
    message: str
    later: str


@dataclass(frozen=True, slots=True)
class FailedCheck:
    """A check whose newest evaluation of a partition failed. `metadata` has the plain values only."""

    table: str
    check: str
    partition: str
    severity: str
    description: str
    run_id: str
    metadata: Mapping[str, Any]


class DagsterStorage:
    """Reads only. Every method raises DatabaseUnavailable when it does not answer, NotInitialized when Dagster has not
    laid out its tables there, DatabaseMismatch when they are not those of Dagster 1.13. Close it when done."""

    def __init__(self, uri: str, stop: threading.Event = NEVER) -> None:
        """Once `stop` is set, nothing here waits for longer than a moment."""
        self._engine: Engine = make_engine(uri, stop)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def heartbeats(self) -> list[Heartbeat]:
        """Every daemon that ever beat."""
        with self._connection() as connection:
            return [Heartbeat(row.daemon_type, float(row.age)) for row in connection.execute(_HEARTBEATS)]

    def sensors(self) -> list[Sensor]:
        """Every sensor that the daemon has ever seen."""
        with self._connection() as connection:
            return [
                _sensor(json.loads(row.body), row.status, float(row.now), row.good_age)
                for row in connection.execute(_SENSORS)
            ]

    def failed_runs(self) -> list[FailedRun]:
        """The newest failure of each job and exchange within RUN_WINDOW_HOURS."""
        given = {"tag": STREAM_TAG, "hours": RUN_WINDOW_HOURS, "most": FAILED_RUNS_READ}
        with self._connection() as connection:
            rows = connection.execute(_FAILED_RUNS, given).all()
        return [
            FailedRun(
                run_id=row.run_id,
                job=row.job,
                place=row.exchange or key_of(row.partition),
                message=_message(row.event),
                later=row.success or row.under_way or "",
            )
            for row in rows
        ]

    def failed_checks(self) -> list[FailedCheck]:
        """Every failure that is noted as standing and is a partition's newest evaluation."""
        found: list[FailedCheck] = []
        with self._connection() as connection:
            notes = {
                row.key.removeprefix(STANDING_KEY): json.loads(row.value)
                for row in connection.execute(_STANDING, {"prefix": f"{STANDING_KEY}%"})
            }
            for table, check, partitions in _noted(notes):
                given = {"asset": json.dumps([table]), "check": check, "partitions": partitions}
                rows = connection.execute(_NEWEST_EVALUATIONS, given).all()
                found += [_check(table, check, row.partition, row.run_id, json.loads(row.event)) for row in rows]
        return found

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except (DBAPIError, PoolTimeoutError) as error:
            found = translate(error, "PostgreSQL (Dagster's storage)")
            if isinstance(found, NotInitialized):
                raise NotInitialized(
                    "Dagster has not laid out its storage in the database of K2_DAGSTER_URI",
                    advice="start Dagster (`k2 dev up`, or your deployment), or correct the address",
                ) from error
            raise found from error
        except (KeyError, TypeError, ValueError) as error:
            raise DatabaseMismatch(
                f"Dagster's storage is not in the form of Dagster 1.13: {type(error).__name__} {error}",
                advice="run the version of K2 that fits this Dagster",
            ) from error


def key_of(partition: str | None) -> str:
    """`exchange|day` of a stored partition, whose dimensions are sorted by name."""
    parts = (partition or "").split("|")
    return f"{parts[1]}|{parts[0]}" if len(parts) == 2 else parts[0]


def _noted(notes: Mapping[str, Mapping[str, Mapping[str, str]]]) -> Iterator[tuple[str, str, list[str]]]:
    """(table, check, partitions) with a failure on record."""
    for table, checks in sorted(notes.items()):
        for check, partitions in sorted(checks.items()):
            if partitions:
                yield table, check, sorted(partitions)


def _sensor(body: Mapping[str, Any], status: str, now: float, good_age: Any) -> Sensor:
    data = body["job_specific_data"] or {}
    ticked, began = data.get("last_tick_start_timestamp"), data.get("last_sensor_start_timestamp")
    ages = [float(good_age)] if good_age is not None else []
    ages += [now - float(began)] if began is not None else []
    return Sensor(
        name=body["origin"]["job_name"],
        stopped=status == "STOPPED",
        tick_age_seconds=None if ticked is None else now - float(ticked),
        good_age_seconds=min(ages, default=0.0),
    )


def _message(event: str | None) -> str:
    """The failure in a line or two: the error's own message where there is one."""
    if event is None:
        return ""
    entry = json.loads(event)
    data = (entry.get("dagster_event") or {}).get("event_specific_data") or {}
    failure = (data.get("user_failure_data") or {}).get("description")
    error = data.get("error") or {}
    cause = error.get("cause") or error
    text_of = failure or cause.get("message") or entry.get("user_message") or ""
    return str(text_of).strip()[:MESSAGE_CHARACTERS]


def _check(table: str, check: str, partition: str, run_id: str, event: Mapping[str, Any]) -> FailedCheck:
    data = event["dagster_event"]["event_specific_data"]
    metadata = {name: value["value"] for name, value in data["metadata"].items() if isinstance(value.get("value"), int)}
    severity = str(data["severity"]["__enum__"]).rsplit(".", 1)[-1]
    return FailedCheck(table, check, key_of(partition), severity, data["description"] or "", run_id, metadata)
