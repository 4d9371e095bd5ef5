"""Who drives the streams that no process holds a lease of: Dagster, while its daemon lives."""

import math
from contextlib import closing

from k2_dagster.alerts.dagster_signals import DAEMON_STALE_SECONDS, SENSOR_DAEMON
from k2_dagster.alerts.dagster_storage import DagsterStorage
from k2_dagster.errors import K2Error, NotInitialized
from k2_dagster.settings import Settings


def silent_seconds(settings: Settings) -> float | None:
    """Seconds since the daemon that launches drains was heard; infinity when it never was. None when it cannot be told:
    K2_DAGSTER_URI is not set, or its server does not answer."""
    if settings.dagster_uri is None:
        return None
    with closing(DagsterStorage(settings.dagster_uri.get_secret_value())) as storage:
        try:
            heartbeats = storage.heartbeats()
        except NotInitialized:
            return math.inf
        except K2Error:
            return None
    return max(0.0, min((one.age_seconds for one in heartbeats if one.daemon == SENSOR_DAEMON), default=math.inf))


def unleased_driver(silent: float | None) -> str:
    """`dagster`, `none`, or `unknown`, by how long its daemon has been silent: dead is what is an incident then."""
    if silent is None:
        return "unknown"
    return "none" if silent > DAEMON_STALE_SECONDS else "dagster"
