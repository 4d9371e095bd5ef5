"""The run tags that dagster.yaml's limits and our own questions to Dagster stand on."""

import dagster as dg

# Whose stream a run drains: one run at a time per exchange.
STREAM_TAG = "k2/stream"
# On a run that took the stream tag by itself, because a person started it.
TURN_TAG = "k2/turn"
# What kind of work a run is: no lane starves another.
LANE_TAG = "k2/lane"
INGEST_LANE, CHECKS_LANE, UPKEEP_LANE = "ingest", "checks", "upkeep"
# Dagster's own: run monitoring fails a run that is there for longer (seconds).
MAX_RUNTIME_TAG = "dagster/max_runtime"

RUNNING = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
UNFINISHED = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, *RUNNING]

# A run that is still there so long after its cap has lost its code server; run monitoring then fails it, and the
# exchange is free again.
OVERTIME_SECONDS = 60.0


def drain_tags(exchange: str, cap_seconds: float) -> dict[str, str]:
    """Tags of a run that drains an exchange for at most `cap_seconds`."""
    longest = int(cap_seconds + OVERTIME_SECONDS)
    return {STREAM_TAG: exchange, LANE_TAG: INGEST_LANE, MAX_RUNTIME_TAG: str(longest)}
