"""What cannot be materialized by hand is refused, and stays what it is.

Dagster knows three ends of a run. A failed one turns its partitions red, good data included, until they are
materialized again, which is what was refused; a successful one would say that they were made. So a refused run is
**canceled**, with the reason in its log and as an observation of each partition, and the checks that were to follow are
evaluated all the same, because Dagster would show them as skipped.
"""

from collections.abc import Sequence

import dagster as dg
from dagster import DagsterExecutionInterruptedError
from dagster_duckdb import DuckDBResource

from k2_dagster.assets.evaluating import evaluate, record
from k2_dagster.assets.landed import landed_today
from k2_dagster.assets.partitions import Partition, is_open, partition_key
from k2_dagster.resources.platform import Platform
from k2_dagster.state.leases import read_leases


def refusal(k2: Platform, dataset: str, partitions: Sequence[Partition]) -> str | None:
    """Why these partitions cannot be materialized by hand, all of them or none; None when they can."""
    if not partitions:
        return f"{dataset}: no partition was given. Choose an exchange and today (UTC)"
    closed = sorted({day for _, _, day in partitions if not is_open(day)})
    if closed:
        return (
            f"{dataset} {', '.join(closed)}: closed. Only an open day (today, UTC) can be materialized by hand, which "
            "drains its exchange. Late messages of closed days land by themselves; making a closed day again from its "
            "messages (re-derivation) does not exist yet"
        )
    leases = read_leases(k2.database)
    for exchange in sorted({exchange for _, exchange, _ in partitions} & leases.keys()):
        lease = leases[exchange]
        if lease.age_seconds < k2.settings.lease_stale_seconds:
            return f"{exchange} is driven by the process {lease.holder}, which lands what waits by itself"
    return None


def refuse(
    context: dg.AssetExecutionContext,
    k2: Platform,
    duckdb: DuckDBResource,
    dataset: str,
    partitions: Sequence[Partition],
    reason: str,
) -> None:
    """End the run as canceled. Always raises DagsterExecutionInterruptedError with the reason."""
    context.log.error("refused, nothing was changed. %s", reason)
    for _, exchange, day in partitions:
        context.log_event(
            dg.AssetObservation(
                asset_key=dg.AssetKey(dataset),
                partition=partition_key(exchange, day),
                description=f"refused: {reason}",
                metadata={"refused": reason},
            )
        )
    chosen = partitions or landed_today(k2, dataset)
    record(context.instance, k2, context.log_event, evaluate(k2, duckdb, chosen).checked)
    # An interruption that nobody has asked for would count as a failure
    context.instance.report_run_canceling(context.run, "Refused, nothing was changed.")
    raise DagsterExecutionInterruptedError(f"refused: {reason}")
