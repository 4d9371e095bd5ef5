"""Leases without a heartbeat: `k2 ingest` processes that died without giving their exchange back."""

from collections.abc import Iterable

from k2_dagster.alerts.dagster_signals import duration
from k2_dagster.alerts.signals import Reading, Signal
from k2_dagster.alerts.sources import Source
from k2_dagster.state.database import Database
from k2_dagster.state.leases import Lease, read_leases

LEASES = "leases"
SCOPES = ("lease/",)


def lease_source(database: Database, stale_seconds: float) -> Source:
    """Stale leases as incidents `lease/EXCHANGE`."""
    return Source(LEASES, SCOPES, lambda: lease_reading(read_leases(database).values(), stale_seconds))


def lease_reading(leases: Iterable[Lease], stale_seconds: float) -> Reading:
    """Pure: the leases whose last heartbeat is older than `stale_seconds`."""
    stale = (one for one in leases if one.age_seconds >= stale_seconds)
    return Reading(LEASES, SCOPES, {f"lease/{one.exchange}": _signal(one) for one in stale})


def _signal(one: Lease) -> Signal:
    return Signal(
        "warning",
        f"The process that drives {one.exchange} is gone",
        f"`k2 ingest` ({one.holder}) has given no sign of life for {duration(one.age_seconds)} and has not given its "
        "lease back. Dagster's runs drain the exchange meanwhile, less fresh.",
        f"Start `k2 ingest --exchange {one.exchange}` again; ended with SIGTERM, it gives the lease back.",
        "lease",
    )
