"""The checks sensor: partitions that commits touched are checked, all in one run, at most one a minute.

One run for all keeps twenty trickling exchanges from starting eighty runs a minute, and while a check run is
unfinished no other is launched, so that checks which take long become rarer by themselves.
"""

import dagster as dg

from k2_dagster.assets.partitions import is_partition
from k2_dagster.jobs import CHECKS_LANE, check_job, check_run_config
from k2_dagster.resources.platform import Platform
from k2_dagster.resources.pruning import LANE_TAG
from k2_dagster.sensors.commits import Cursor, read_touched
from k2_dagster.sensors.lag import UNFINISHED

MINIMUM_INTERVAL_SECONDS = 60
# Partitions in one run: a backfill of old captures touches many days; the rest follows in the next run.
PARTITIONS_PER_RUN = 100


@dg.sensor(
    name="checks",
    job=check_job,
    minimum_interval_seconds=MINIMUM_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Launches the checks of the partitions that commits touched, in one run a minute.",
)
def checks_sensor(context: dg.SensorEvaluationContext, k2: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """One tick. Its cursor is like the mirror's: what is still to be checked is `waiting`."""
    unfinished = dg.RunsFilter(statuses=UNFINISHED, tags={LANE_TAG: CHECKS_LANE})
    if context.instance.get_runs(unfinished, limit=1):
        return dg.SensorResult(skip_reason="a check run has not ended yet")
    before = Cursor.load(context.cursor)
    read, touched = read_touched(k2.database, before.read)
    waiting = dict(before.waiting)
    for partition, position in touched:
        if is_partition(k2.profiles, partition[1], partition[2]):
            waiting.setdefault(partition, position)
    chosen = sorted(waiting, key=lambda one: waiting[one])[:PARTITIONS_PER_RUN]
    if not chosen:
        return dg.SensorResult(skip_reason="nothing landed", cursor=Cursor(read).dump())
    rest = {partition: at for partition, at in waiting.items() if partition not in set(chosen)}
    request = dg.RunRequest(run_config=check_run_config(chosen), tags={LANE_TAG: CHECKS_LANE})
    return dg.SensorResult(run_requests=[request], cursor=Cursor(read, rest).dump())
