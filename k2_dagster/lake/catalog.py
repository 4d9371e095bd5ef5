"""The Iceberg catalog: PyIceberg's SQL catalog on PostgreSQL, behind a translation of errors.

Nothing here depends on the SQL catalog but this function: another catalog is another `load_catalog` configuration.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitStateUnknownException, NoSuchNamespaceError, NoSuchTableError
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.update import TableRequirement, TableUpdate
from pyiceberg.typedef import Identifier
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from k2_dagster.errors import TRY_ADDRESS, CommitUnknown, K2Error, NotInitialized, TableLost, WarehouseUnavailable
from k2_dagster.lake.metadata import shared
from k2_dagster.observability.stopping import NEVER
from k2_dagster.settings import Settings
from k2_dagster.state.database import translate
from k2_dagster.state.engine import make_engine

# Bounds on one S3 request; without them a black hole costs more than ten seconds per call.
S3_CONNECT_TIMEOUT_SECONDS = 5
S3_REQUEST_TIMEOUT_SECONDS = 30


class _BoundedCatalog(SqlCatalog):
    """PyIceberg's catalog on an engine that does not wait for ever; its own would."""

    def __init__(self, name: str, engine: Engine, **properties: str) -> None:
        self._bounded = engine
        # what the thread is committing to
        self._base = threading.local()
        super().__init__(name, **properties)

    def _init_catalog(self) -> None:
        self.engine.dispose()  # of the library's making, and not connected yet
        self.engine = self._bounded
        super()._init_catalog()

    def commit_table(
        self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
    ) -> CommitTableResponse:
        """As PyIceberg's, on `table` as the caller has it, where theirs loads it once more. The catalog moves the table
        on only if it still is where that was read; else this raises CommitFailedException.
        """
        self._base.table = table
        try:
            return super().commit_table(table, requirements, updates)
        finally:
            self._base.table = None

    def load_table(self, identifier: str | Identifier) -> Table:
        """The table as it is now; to `commit_table`, as its caller has it."""
        base: Table | None = getattr(self._base, "table", None)
        if base is not None:
            return base
        loaded = super().load_table(identifier)
        loaded.metadata = shared(loaded.metadata)
        return loaded


def open_catalog(settings: Settings, stop: threading.Event = NEVER) -> Catalog:
    """The catalog of the settings. It keeps a connection pool; close it with `close_catalog`.

    Once `stop` is set, its statements wait for a moment only: see `state/engine.py`. Raises DatabaseUnavailable.
    """
    engine = make_engine(settings.catalog_uri.get_secret_value(), stop)
    try:
        with translated_errors():
            return _BoundedCatalog(settings.catalog_name, engine, **catalog_properties(settings))
    except BaseException:
        engine.dispose()
        raise


def catalog_properties(settings: Settings) -> dict[str, str]:
    """Properties for PyIceberg: address, warehouse, file access."""
    properties = {
        "uri": settings.catalog_uri.get_secret_value(),
        "warehouse": settings.warehouse,
        "py-io-impl": settings.file_io,
        "init_catalog_tables": "true",
    }
    s3 = {
        "s3.endpoint": settings.s3_endpoint,
        "s3.region": settings.s3_region,
        "s3.access-key-id": settings.s3_access_key_id,
        "s3.secret-access-key": settings.s3_secret_access_key and settings.s3_secret_access_key.get_secret_value(),
        "s3.connect-timeout": str(S3_CONNECT_TIMEOUT_SECONDS),
        "s3.request-timeout": str(S3_REQUEST_TIMEOUT_SECONDS),
    }
    if settings.warehouse.startswith("s3://"):
        properties.update({key: str(value) for key, value in s3.items() if value is not None})
    return properties


def close_catalog(catalog: Catalog) -> None:
    """Give the catalog's connections back."""
    catalog.close()


def load_table(catalog: Catalog, name: str) -> Table:
    """The table as it is now. Raises NotInitialized when it does not exist, TableLost when its files do not."""
    try:
        return _load(catalog, name)
    except FileNotFoundError:
        # Old metadata files are deleted; between the catalog's answer and the read, many commits may have come
        try:
            return _load(catalog, name)
        except FileNotFoundError as error:
            raise TableLost(
                f"the catalog names table {name}, the warehouse does not have its metadata file: {error}",
                advice="K2_WAREHOUSE and K2_CATALOG_URI must belong together; if the files are gone, see "
                "docs/recovery.md, 'The warehouse is gone'",
                table=name,
            ) from error


def _load(catalog: Catalog, name: str) -> Table:
    """As `load_table`, but a file that is not there stays FileNotFoundError."""
    try:
        return catalog.load_table(name)
    except FileNotFoundError:
        raise
    except (NoSuchTableError, NoSuchNamespaceError) as error:
        raise NotInitialized(f"table {name} does not exist", advice="run `k2 init`") from error
    except (DBAPIError, OSError) as error:
        raise _translate(error) from error


@contextmanager
def translated_errors() -> Iterator[None]:
    """The catalog's and the storage's errors as ours."""
    try:
        yield
    except (DBAPIError, PoolTimeoutError, CommitStateUnknownException, OSError) as error:
        raise _translate(error) from error


def _translate(error: DBAPIError | PoolTimeoutError | CommitStateUnknownException | OSError) -> K2Error:
    if isinstance(error, DBAPIError | PoolTimeoutError):
        return translate(error, "catalog")
    if isinstance(error, CommitStateUnknownException):
        return CommitUnknown(f"catalog: {error}", advice="it is looked for before anything is repeated")
    return WarehouseUnavailable(f"warehouse: {error}", advice=TRY_ADDRESS)
