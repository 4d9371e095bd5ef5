"""What `k2 watch` watches and whom it tells, from the settings."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from k2_dagster.alerts.away import Away
from k2_dagster.alerts.breakers import breaker_source
from k2_dagster.alerts.dagster_sources import dagster_sources
from k2_dagster.alerts.dagster_storage import DagsterStorage
from k2_dagster.alerts.delivery import Deliverer
from k2_dagster.alerts.heartbeat import Heartbeat
from k2_dagster.alerts.judge import HOLD_SECONDS
from k2_dagster.alerts.leases import lease_source
from k2_dagster.alerts.messages import links_of
from k2_dagster.alerts.outbox import Outbox
from k2_dagster.alerts.recovery import recovery_source
from k2_dagster.alerts.rounds import Watch
from k2_dagster.alerts.sources import Source, Sources
from k2_dagster.alerts.targets import targets_of
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.watch.breakers import open_breakers
from k2_dagster.watch.recovery import recovery_trouble
from k2_dagster.watch.streams import stream_source

logger = logging.getLogger(__name__)


@contextmanager
def opened_watch(
    settings: Settings,
    profiles: Profiles,
    stop: threading.Event,
    *,
    settled: bool = False,
    hold_seconds: float = HOLD_SECONDS,
) -> Iterator[Watch]:
    """A watch over everything. `settled`: see `dagster_sources`; an incident is resolved when its signal has been gone
    for `hold_seconds`. Raises ConfigurationError."""
    targets, links = targets_of(settings), links_of(settings)
    if not targets:
        logger.warning("nobody is told: K2_ALERT_URLS is not set; `k2 incidents list` shows what is found")
    database = Database(settings, stop)
    storage = None if settings.dagster_uri is None else DagsterStorage(settings.dagster_uri.get_secret_value(), stop)
    try:
        yield Watch(
            database,
            Sources(_sources(settings, profiles, database, storage, settled)),
            Outbox(database, links, hold_seconds),
            Deliverer(database, stop),
            targets,
            _heartbeat(settings),
            Away(targets, links),
        )
    finally:
        database.close()
        if storage is not None:
            storage.close()


def _sources(
    settings: Settings, profiles: Profiles, database: Database, storage: DagsterStorage | None, settled: bool
) -> list[Source]:
    own = [
        lease_source(database, settings.lease_stale_seconds),
        stream_source(settings, profiles),
        breaker_source(lambda: open_breakers(database, settings.kafka_retention_hours)),
        recovery_source(lambda: recovery_trouble(database, profiles)),
    ]
    if storage is None:
        logger.warning("Dagster is not watched: K2_DAGSTER_URI is not set")
        return own
    return [*own, *dagster_sources(storage, settled=settled)]


def _heartbeat(settings: Settings) -> Heartbeat:
    url = settings.alert_heartbeat_url
    return Heartbeat(None if url is None else url.get_secret_value(), settings.alert_heartbeat_interval_seconds)
