"""Trusted SQL over the tables' history: planned by PyIceberg, scanned by DuckDB (DESIGN D14).

1. begin     one DuckDB connection and transaction per query: its `now()` is planning's too
2. parse     DuckDB's syntax tree names the tables and the conditions on them
3. plan      the current snapshot of each table is pinned; files that no row can come from are left out
4. fetch     from object storage, files go through a local cache
5. view      a view per table over exactly those files; of the ledger's tables, over their rows as they are now
6. run       DuckDB runs the statement as written, and the answer streams
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlparse

import duckdb
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.table import Table

from k2_dagster.coverage.relations import RELATIONS, read_relations
from k2_dagster.errors import ConfigurationError, QueryRefused
from k2_dagster.lake.catalog import close_catalog, load_table, open_catalog
from k2_dagster.query.answer import Answer, Interruption, translated_errors
from k2_dagster.query.cache import FileCache
from k2_dagster.query.constants import Constants, syntax_tree
from k2_dagster.query.filters import file_filters, is_transparent, mentioned_tables
from k2_dagster.query.plan import TablePlan, plan_table
from k2_dagster.query.views import DERIVED, view_columns, view_sql
from k2_dagster.schemas.datasets import NAMESPACE, TABLES, table_name
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database

# Rows of one batch of a streamed answer: some megabytes, whatever the columns.
BATCH_ROWS = 65_536
BYTES_PER_MEGABYTE = 1_000_000
CACHE_FOLDER = "cache/data-files"
SPILL_FOLDER = "cache/query-spill"
NO_PARAMETERS: Mapping[str, Any] = {}
# Everything in `market_data`: Iceberg's tables, what is derived from them, and those of the coverage ledger.
NAMES = (*TABLES, *DERIVED, *RELATIONS)


class QueryEngine:
    """Answers SQL over `market_data.ticks`, `quotes`, `book`, `control`, `instruments`, `symbols` and `quarantine`, and
    over the coverage ledger: `coverage`, `gaps`, `resets`, `connections` and `holds`. May be shared by threads.

    The SQL is trusted: it may read and write files of this machine. Statements name parameters as `$name`.

    Every method raises QueryRefused (the statement cannot be answered), NotInitialized (`k2 init` has not been run),
    DatabaseUnavailable and WarehouseUnavailable.
    """

    def __init__(self, settings: Settings, catalog: Catalog | None = None) -> None:
        self._settings = settings
        self._owns_catalog = catalog is None
        self._catalog = open_catalog(settings) if catalog is None else catalog
        home = settings.home.absolute()
        self._cache = FileCache(home / CACHE_FOLDER, settings.query_cache_megabytes * BYTES_PER_MEGABYTE)
        self._spill = home / SPILL_FOLDER

    def query(self, sql: str, parameters: Mapping[str, Any] = NO_PARAMETERS) -> pa.Table:
        """The whole answer in memory: decimals exact, times in UTC microseconds. No rows still have columns."""
        with self.open(sql, parameters) as answer:
            return answer.read_all()

    def stream(
        self, sql: str, parameters: Mapping[str, Any] = NO_PARAMETERS, *, batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The answer batch by batch, in bounded memory. The query starts with the first batch."""
        with self.open(sql, parameters, batch_rows=batch_rows) as answer:
            yield from answer

    def open(
        self,
        sql: str,
        parameters: Mapping[str, Any] = NO_PARAMETERS,
        *,
        batch_rows: int = BATCH_ROWS,
        interruption: Interruption | None = None,
    ) -> Answer:
        """Start a query; the caller reads and closes the answer. `interruption` lets another thread stop it."""
        with ExitStack() as stack, translated_errors():
            interruption = interruption or Interruption()
            connection = self._begin(stack)  # Step 1
            interruption.attach(connection)
            tree, names = _parsed(connection, sql)  # Step 2
            tables, plans = self._plan(connection, tree, names, parameters)  # Step 3
            self._view_ledger(connection, names)
            for table, plan in zip(tables, plans, strict=True):
                paths = self._local_paths(table, plan, stack)  # Step 4
                connection.execute(view_sql(_short(plan.table), table.schema(), paths))  # Step 5
            for name in [one for one in names if one in DERIVED]:
                connection.execute(DERIVED[name][1])
            interruption.check()
            relation = connection.sql(sql, params=dict(parameters) or None)  # Step 6
            reader = relation.to_arrow_reader(batch_rows)
            return Answer(connection, reader, plans, stack.pop_all().close)

    def explain(self, sql: str, parameters: Mapping[str, Any] = NO_PARAMETERS) -> tuple[TablePlan, ...]:
        """What the query would read, table by table; those of the ledger are not among them. Reads no data file."""
        with ExitStack() as stack, translated_errors():
            connection = self._begin(stack)
            _, plans = self._plan(connection, *_parsed(connection, sql), parameters)
            return plans

    def close(self) -> None:
        """Close the catalog, unless it was passed in."""
        if self._owns_catalog:
            close_catalog(self._catalog)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, stack: ExitStack) -> duckdb.DuckDBPyConnection:
        try:
            self._spill.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"{self._spill} cannot be made: {error}", advice="K2_HOME must be writable"
            ) from error
        connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{self._settings.query_memory_megabytes}MB",
                "threads": self._settings.query_threads,
                "temp_directory": str(self._spill),
                "max_temp_directory_size": f"{self._settings.query_temp_megabytes}MB",
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
                # A table name must never mean a variable of this process.
                "python_enable_replacements": False,
            },
        )
        stack.callback(connection.close)
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"CREATE SCHEMA {NAMESPACE}")
        connection.begin()
        return connection

    def _plan(
        self, connection: duckdb.DuckDBPyConnection, tree: Any, mentioned: list[str], parameters: Mapping[str, Any]
    ) -> tuple[list[Table], tuple[TablePlan, ...]]:
        beneath = {DERIVED[name][0] for name in mentioned if name in DERIVED}
        names = [name for name in mentioned if name in TABLES]
        names += sorted(beneath - {*names})
        tables = [load_table(self._catalog, table_name(name)) for name in names]
        filters = _filters(connection, tree, dict(zip(names, tables, strict=True)), parameters)
        # What a statement says of a table does not hold for what is derived from it
        filters = {name: one for name, one in filters.items() if name not in beneath}
        plans = (plan_table(table, filters.get(name, AlwaysTrue())) for name, table in zip(names, tables, strict=True))
        return tables, tuple(plans)

    def _view_ledger(self, connection: duckdb.DuckDBPyConnection, mentioned: list[str]) -> None:
        names = [name for name in mentioned if name in RELATIONS]
        if not names:
            return
        database = Database(self._settings)
        try:
            found = read_relations(database, names)
        finally:
            database.close()
        for name, rows in found.items():
            connection.register(f"ledger_{name}", rows)
            connection.execute(f"CREATE VIEW {NAMESPACE}.{name} AS SELECT * FROM ledger_{name}")

    def _local_paths(self, table: Table, plan: TablePlan, stack: ExitStack) -> list[str]:
        locations = [urlparse(one.path) for one in plan.files]
        if all(location.scheme in ("", "file") for location in locations):
            return [location.path for location in locations]
        pin = self._cache.pin(table.io, plan.files)
        stack.callback(pin.close)
        return pin.paths


def _parsed(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, list[str]]:
    """The syntax tree, and the names of `market_data` to put before the statement."""
    _require_one_statement(connection, sql)
    tree = syntax_tree(connection, sql)
    return tree, _tables_of(sql, tree)


def _require_one_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    count = len(connection.extract_statements(sql))
    if count != 1:
        raise QueryRefused(f"there were {count} statements", advice="ask one question at a time")


def _tables_of(sql: str, tree: Any) -> list[str]:
    """Tables to put before the statement. Where the tree does not tell all, any that the text names."""
    mentioned = mentioned_tables(tree)
    unknown = [name for name in mentioned if name not in NAMES]
    if unknown:
        raise QueryRefused(f"there is no table {table_name(unknown[0])}", advice=_advice(unknown[0]), table=unknown[0])
    if is_transparent(tree):
        return mentioned
    named = [name for name in TABLES if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]
    # their names are words that a statement may have for other things, and they cost a look elsewhere
    others = [name for name in (*DERIVED, *RELATIONS) if re.search(rf"\b{NAMESPACE}\W+{name}\b", sql, re.I)]
    return [*named, *others]


def _advice(name: str) -> str:
    nearest = difflib.get_close_matches(name, NAMES, n=1)
    tables = ", ".join(table_name(one) for one in NAMES)
    return f"did you mean {table_name(nearest[0])}? tables: {tables}" if nearest else f"tables: {tables}"


def _filters(
    connection: duckdb.DuckDBPyConnection, tree: Any, tables: Mapping[str, Table], parameters: Mapping[str, Any]
) -> Mapping[str, BooleanExpression]:
    columns = {name: view_columns(name, table.schema()) for name, table in tables.items()}
    try:
        return file_filters(tree, columns, Constants(connection, parameters).evaluate)
    except duckdb.Error:
        # A constant that is no time, say. The statement itself will say what is wrong, in a transaction of its own
        connection.rollback()
        connection.begin()
        return {}


def _short(name: str) -> str:
    return name.removeprefix(f"{NAMESPACE}.")
