"""The commits sensor: partitions that commits touched are reported and checked, all in one run, at most one a minute.

One cursor leads from `k2.commits` to what the UI shows. The check run that the sensor launches reports a partition (see
`assets/mirror.py`) together with the checks of what it reports; between two such runs nothing moves in the UI, so a
failed check stays failed. One run a minute for all keeps twenty trickling exchanges from starting eighty, and while one
is unfinished no other is launched, so that checks which take long become rarer by themselves.

1. lock      one evaluation at a time, on PostgreSQL; a second one skips its tick
2. read      commits behind the cursor, table by table: positions become visible in order only within a table
3. choose    what is due: never reported, or reported long enough ago and touched since; partitions whose failure
             stands are looked at again each hour, those whose messages wait every five minutes
4. report    by the sensor itself, what no check run has: a partition's first commits at once, others when overdue
5. launch    one check run for what was chosen
6. cursor    saved by Dagster after the tick; if that fails, step 4 and the run find what was reported already
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime

import dagster as dg
from sqlalchemy import select

from k2_dagster.assets.landed import is_behind, partition_size
from k2_dagster.assets.mirror import REPORT_INTERVAL_SECONDS, last_report, report, reporter
from k2_dagster.assets.partitions import Partition, is_partition
from k2_dagster.assets.unstable import sensor
from k2_dagster.errors import K2Error, NotInitialized
from k2_dagster.jobs import check_job, check_run_config, materialize_job
from k2_dagster.resources.platform import Platform
from k2_dagster.resources.tags import CHECKS_LANE, LANE_TAG, MAX_RUNTIME_TAG, UNFINISHED
from k2_dagster.schemas.datasets import TABLES, table_name
from k2_dagster.sensors.cursor import Cursor, day_of
from k2_dagster.sensors.recheck import rechecks
from k2_dagster.sensors.reported import tell_reported
from k2_dagster.state.database import Database
from k2_dagster.state.tables import commits

# Dagster's loop is 5 s; see the lag sensor.
MINIMUM_INTERVAL_SECONDS = 1
# Commits read in a tick (2 KB each); what is left is read in the next, 5 s later.
COMMITS_READ = 5_000
# Partitions looked at in a tick (20 ms each, 150 ms where one is reported): one over 60 s would lose its cursor.
LOOKS_PER_TICK = 60
# Between two check runs; each costs its start, 2 CPU-seconds.
LAUNCH_INTERVAL_SECONDS = 60.0
# Partitions in one check run (0.3 s and 30 KB of events each): more than this wait for the next, oldest first. At this
# pace Dagster's storage grows by 1.6 GB a day, of which pruning leaves two days.
PARTITIONS_PER_RUN = 40
# The cursor's name for when a check run was last launched.
LAUNCHED = "launched"
# Check runs that fail keep nothing from being reported for longer than this.
OVERDUE_SECONDS = 300.0
# Run monitoring fails a check run that takes longer; the next one may begin.
LONGEST_CHECK_RUN_SECONDS = 1_800


@sensor(
    name="commits",
    jobs=[check_job, materialize_job],
    minimum_interval_seconds=MINIMUM_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports and checks the partitions that commits touched: a materialization with its checks, at most "
    "one a minute.",
)
def commits_sensor(context: dg.SensorEvaluationContext, k2: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """One tick."""
    with reporter(k2.database) as mine:  # Step 1
        if not mine:
            return dg.SensorResult(skip_reason="somebody else is reporting")
        try:
            saved = Cursor.load(context.cursor)
            tell_reported(k2.database, saved.read, saved.waiting)
            tick = Tick(context.instance, k2, saved, time.time())
            chosen = tick.choose()
        except NotInitialized as missing:
            return dg.SensorResult(skip_reason=f"there is nothing to report yet: {missing}")
    for dataset, exchange, day in sorted(tick.invalid):
        context.log.error("%s %s %s: commits name this partition, but there is none such", dataset, exchange, day)
    for partition, error in tick.errors.items():
        context.log.error("%s %s %s cannot be reported: %s", *partition, error)
    if not chosen:
        return dg.SensorResult(skip_reason=tick.words(), cursor=tick.cursor().dump())
    tags = {LANE_TAG: CHECKS_LANE, MAX_RUNTIME_TAG: str(LONGEST_CHECK_RUN_SECONDS)}
    config = check_run_config(chosen, mirrored=True)
    request = dg.RunRequest(job_name=check_job.name, run_config=config, tags=tags)  # Step 5
    return dg.SensorResult(run_requests=[request], cursor=tick.cursor().dump())


class Tick:
    """Steps 2 to 4 at one time (epoch seconds). Make it as the `reporter`."""

    def __init__(self, instance: dg.DagsterInstance, k2: Platform, before: Cursor, now: float) -> None:
        self.instance = instance
        self.k2 = k2
        self.now = now
        self.read: Mapping[str, int]
        self.waiting = dict(before.waiting)
        self.due_at = dict(before.due_at)
        self.again = list(before.again)
        self.looked_at = dict(before.looked_at)
        self.invalid: set[Partition] = set()
        self.errors: dict[Partition, K2Error] = {}
        self.reported = 0
        self._read(before)

    def choose(self) -> list[Partition]:
        """The partitions to check now, in one run; none while one is unfinished or was launched a moment ago."""
        recent = self.now < self.looked_at.get(LAUNCHED, 0.0) + LAUNCH_INTERVAL_SECONDS
        busy = recent or self._check_run_is_unfinished()
        chosen = [one for one in self._due(busy) if self._look(one, busy)]
        if busy:
            return []
        more, looked_at = rechecks(self.instance, self.k2, self.looked_at, self.now)
        self.looked_at |= looked_at
        again = [one for one in dict.fromkeys([*self.again, *more]) if one not in chosen]
        room = max(0, PARTITIONS_PER_RUN - len(chosen))
        self.again = again[room:]
        chosen += again[:room]
        if chosen:
            self.looked_at[LAUNCHED] = self.now
        return chosen

    def cursor(self) -> Cursor:
        """The next tick's memory."""
        due_at = {one: at for one, at in self.due_at.items() if at > self.now or one in self.waiting}
        return Cursor(self.read, self.waiting, due_at, self.again, self.looked_at)

    def words(self) -> str:
        """Why nothing was launched."""
        return f"{len(self.waiting)} partitions wait for their report" if self.waiting else "nothing landed"

    def _read(self, before: Cursor) -> None:  # Step 2
        self.read, touched = read_touched(self.k2.database, before.read)
        time_now = datetime.fromtimestamp(self.now, UTC)
        for partition, position in touched:
            if partition[2] > day_of(self.now) or is_partition(self.k2.profiles, *partition[1:], time_now):
                self.waiting.setdefault(partition, position)
            else:
                self.invalid.add(partition)

    def _due(self, busy: bool) -> list[Partition]:  # Step 3
        """Partitions to look at, those that wait for longest first. While a check run is at work, it is about to report
        what it was launched for: only what is overdue is looked at."""
        grace = OVERDUE_SECONDS if busy else 0.0
        # Tables keep rows of tomorrow, from venues whose clock is ahead; its partition begins at midnight
        begun = (one for one in self.waiting if one[2] <= day_of(self.now))
        due = [one for one in begun if self.due_at.get(one, 0.0) + grace * (one in self.due_at) <= self.now]
        most = LOOKS_PER_TICK if busy else PARTITIONS_PER_RUN
        return sorted(due, key=lambda one: self.waiting[one])[:most]

    def _look(self, partition: Partition, busy: bool) -> bool:
        """Whether the partition is to be reported and checked now; what a check run must not hold up is reported."""
        last = last_report(self.instance, partition)
        if not is_behind(self.k2.database, partition, last.through, self.read[table_name(partition[0])]):
            del self.waiting[partition]
            self.due_at[partition] = last.next_at
            return False
        if self.now < last.next_at:
            self.due_at[partition] = last.next_at
            return False
        alone = last.through == 0 or self.now > last.next_at + OVERDUE_SECONDS
        if alone:
            self._report(partition)
        # what the next check run is to report is looked at again when it is launched, or when it is overdue
        self.due_at[partition] = self.now if busy and not alone else self.now + REPORT_INTERVAL_SECONDS
        return True

    def _report(self, partition: Partition) -> None:  # Step 4
        try:
            size = partition_size(self.k2, partition)
            self.reported += report(self.instance, self.k2, partition, self.read[table_name(partition[0])], size)
        except K2Error as error:
            self.errors[partition] = error

    def _check_run_is_unfinished(self) -> bool:
        unfinished = dg.RunsFilter(statuses=UNFINISHED, tags={LANE_TAG: CHECKS_LANE})
        return bool(self.instance.get_runs(unfinished, limit=1))


def read_touched(database: Database, read: Mapping[str, int]) -> tuple[dict[str, int], list[tuple[Partition, int]]]:
    """Partitions touched by commits behind the given positions (by table), each with its commit's position, and the
    positions after them. At most COMMITS_READ commits of a table at a time."""
    after, touched = dict(read), []
    with database.begin() as connection:
        for dataset in TABLES:
            name = table_name(dataset)
            query = (
                select(commits.c.position, commits.c.exchange, commits.c.days)
                .where(commits.c.table_name == name, commits.c.position > read.get(name, 0))
                .order_by(commits.c.position)
                .limit(COMMITS_READ)
            )
            for one in connection.execute(query):
                after[name] = int(one.position)
                touched += [((dataset, str(one.exchange), str(day)), int(one.position)) for day in one.days]
    return after, touched
