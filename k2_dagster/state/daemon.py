"""Whether Dagster's daemon lives, by the heartbeats in its own storage. Dagster itself is not imported for it."""

import time
from contextlib import closing

from sqlalchemy import text

from k2_dagster.errors import K2Error
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database

# It writes one every 30 s; four that are missing are no busy moment.
DEAD_SECONDS = 120.0
# Dagster's own form of a heartbeat: epoch seconds, whatever time zone the session has.
_HEARD = text("""
    select max((body::jsonb ->> 'timestamp')::float) from daemon_heartbeats where daemon_type = 'SENSOR'
""")


def silent_seconds(settings: Settings) -> float | None:
    """Seconds since the daemon that launches drains was heard; infinity when it never was. None when it cannot be told:
    K2_DAGSTER_URI is not set, or its server does not answer."""
    if settings.dagster_uri is None:
        return None
    with closing(Database(settings.model_copy(update={"catalog_uri": settings.dagster_uri}))) as storage:
        try:
            with storage.begin() as connection:
                if connection.execute(text("select to_regclass('daemon_heartbeats')")).scalar() is None:
                    return float("inf")
                heard = connection.execute(_HEARD).scalar()
        except K2Error:
            return None
    return float("inf") if heard is None else max(0.0, time.time() - float(heard))
