"""Leases without a heartbeat: processes that died without giving their exchange back."""

from collections.abc import Iterable
from typing import get_args

from k2_dagster.alerts.dagster_signals import duration
from k2_dagster.alerts.signals import Reading, Signal
from k2_dagster.alerts.sources import Source
from k2_dagster.state.database import Database
from k2_dagster.state.leases import Lease, Work, read_leases

LEASES = "leases"
SCOPES = ("lease/",)


def lease_source(database: Database, stale_seconds: float) -> Source:
    """Stale leases as incidents `lease/EXCHANGE`, those of recovery `lease/EXCHANGE/recovery`."""

    def read() -> Reading:
        held = [one for work in get_args(Work) for one in read_leases(database, work).values()]
        return lease_reading(held, stale_seconds)

    return Source(LEASES, SCOPES, read)


def lease_reading(leases: Iterable[Lease], stale_seconds: float) -> Reading:
    """Pure: the leases whose last heartbeat is older than `stale_seconds`."""
    stale = (one for one in leases if one.age_seconds >= stale_seconds)
    return Reading(LEASES, SCOPES, {_key(one): _signal(one) for one in stale})


def _key(one: Lease) -> str:
    return f"lease/{one.exchange}" + ("" if one.work == "ingest" else f"/{one.work}")


def _signal(one: Lease) -> Signal:
    if one.work == "recovery":
        return Signal(
            "warning",
            f"The process that recovers {one.exchange} is gone",
            f"`k2 recover` ({one.holder}) has given no sign of life for {duration(one.age_seconds)} and has not given "
            "its lease back. What the exchange misses is not asked for meanwhile.",
            f"Start `k2 recover {one.exchange}` again; ended with SIGTERM, it gives the lease back.",
            "lease",
        )
    return Signal(
        "warning",
        f"The process that drives {one.exchange} is gone",
        f"`k2 ingest` ({one.holder}) has given no sign of life for {duration(one.age_seconds)} and has not given its "
        "lease back. Dagster's runs drain the exchange meanwhile, less fresh.",
        f"Start `k2 ingest --exchange {one.exchange}` again; ended with SIGTERM, it gives the lease back.",
        "lease",
    )
