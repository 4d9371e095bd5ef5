"""What every Dagster room works with: settings, profiles and connections, made once per process.

A code server evaluates a tick every few seconds for weeks, so connections are kept across ticks; a run makes its own.
"""

import threading
from functools import cached_property

from pyiceberg.catalog import Catalog

from k2_dagster.ingest.lag import LagReader
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.settings import Settings, load_settings
from k2_dagster.state.database import Database


class Platform:
    """Connections by need, kept until `close`. Thread-safe: sensors are evaluated in a pool of threads."""

    def __init__(self, settings: Settings, profiles: Profiles) -> None:
        self.settings = settings
        self.profiles = profiles
        self._making = threading.RLock()

    @classmethod
    def from_environment(cls) -> "Platform":
        """Raises ConfigurationError. Connects to nothing yet."""
        settings = load_settings()
        return cls(settings, load_profiles(settings.profiles))

    @property
    def database(self) -> Database:
        """The control database."""
        with self._making:
            return self._database

    @property
    def catalog(self) -> Catalog:
        """The Iceberg catalog. Raises DatabaseUnavailable."""
        with self._making:
            return self._catalog

    @property
    def lag(self) -> LagReader:
        """Tells how far tables are behind. Raises DatabaseUnavailable, ConfigurationError."""
        with self._making:
            return self._lag

    @cached_property
    def _database(self) -> Database:
        return Database(self.settings)

    @cached_property
    def _catalog(self) -> Catalog:
        return open_catalog(self.settings)

    @cached_property
    def _lag(self) -> LagReader:
        return LagReader(self.settings, self.profiles, self._catalog, self._database)

    def close(self) -> None:
        """Give the connections back; the next use makes new ones."""
        with self._making:
            made = self.__dict__
            made.pop("_lag", None)
            if "_catalog" in made:
                close_catalog(made.pop("_catalog"))
            if "_database" in made:
                made.pop("_database").close()
