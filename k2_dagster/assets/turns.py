"""One drain at a time per exchange, also for runs that a person started.

The lag sensor gives its runs the tag `k2/stream`, of which dagster.yaml allows one at a time. A run by hand (a
materialization, the job from the launchpad) starts without it and takes it itself: from then on the sensor launches
nothing for the exchange, and the queue holds back what was launched. What already runs is waited for. This saves work
and keeps the logs plain; that no row lands twice is the fence's doing.
"""

import time

import dagster as dg

from k2_dagster.errors import TransientError
from k2_dagster.resources.tags import RUNNING, STREAM_TAG, TURN_TAG, drain_tags

# Between two looks at Dagster's storage (a query of milliseconds).
LOOK_SECONDS = 1.0
# A drain ends at its first commit after its cap; one that is there for twice as long is not going to.
PATIENCE_CAPS = 2.0


def take_turn(instance: dg.DagsterInstance, run: dg.DagsterRun, exchange: str, cap_seconds: float) -> None:
    """Mark the run as the one that drains the exchange, and wait for those that do already.

    A run that was launched with the tag goes on at once. Raises TransientError that names the run waited for in vain.
    """
    if run.tags.get(STREAM_TAG) == exchange and TURN_TAG not in run.tags:
        return
    patience_seconds = PATIENCE_CAPS * cap_seconds
    instance.add_run_tags(run.run_id, drain_tags(exchange, patience_seconds + cap_seconds) | {TURN_TAG: "by hand"})
    deadline = time.monotonic() + patience_seconds
    while (other := _goes_first(instance, run.run_id, exchange)) is not None:
        if time.monotonic() > deadline:
            raise TransientError(
                f"{exchange} is being drained by run {other} for more than {patience_seconds:.0f} s",
                advice="look at that run, and terminate it if it hangs; then try again",
            )
        time.sleep(LOOK_SECONDS)  # a look at another process, with a deadline around it


def _goes_first(instance: dg.DagsterInstance, run_id: str, exchange: str) -> str | None:
    """A drain of the exchange that goes first: any that the queue has started, and those by hand that are older."""
    records = instance.get_run_records(dg.RunsFilter(statuses=RUNNING, tags={STREAM_TAG: exchange}))
    ages = {one.dagster_run.run_id: (one.create_timestamp, one.dagster_run.run_id) for one in records}
    ours = ages.get(run_id)
    for one in records:
        other = one.dagster_run
        older = ours is None or ages[other.run_id] < ours
        if other.run_id != run_id and (TURN_TAG not in other.tags or older):
            return other.run_id
    return None
