"""What every stream of a process shares: settings, catalog, control database, registry and Kafka's end offsets."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyiceberg.catalog import Catalog

from k2_dagster.ingest.resident import prepare
from k2_dagster.kafka.ends import TopicEnds
from k2_dagster.kafka.registry import Registry
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.observability.stopping import NEVER
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import require_current
from k2_dagster.state.refused_schemas import RefusedSchemas


@dataclass(frozen=True)
class Connections:
    """What every stream of a process shares."""

    settings: Settings
    profiles: Profiles
    catalog: Catalog
    database: Database
    registry: Registry
    ends: TopicEnds
    refused_schemas: RefusedSchemas
    stop: threading.Event

    @classmethod
    @contextmanager
    def open(cls, settings: Settings, profiles: Profiles, stop: threading.Event = NEVER) -> Iterator["Connections"]:
        """Open catalog, control database and registry. Once `stop` is set, none of them is waited for any more.

        Raises NotInitialized when `k2 init` has not been run.
        """
        prepare()
        database = Database(settings, stop)
        try:
            require_current(database)
            catalog, registry = open_catalog(settings, stop), Registry(settings)
            try:
                ends, refused = TopicEnds(settings, stop), RefusedSchemas(database)
                yield cls(settings, profiles, catalog, database, registry, ends, refused, stop)
            finally:
                registry.close()
                close_catalog(catalog)
        finally:
            database.close()
