"""The answer to a query while it streams out of DuckDB."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

import duckdb
import pyarrow as pa

from k2_dagster.errors import K2Error, QueryRefused, WarehouseUnavailable
from k2_dagster.query.plan import TablePlan
from k2_dagster.schemas.datasets import table_name


class Interruption:
    """Stops one query from another thread, at any stage. Call `stop` until the query has ended: DuckDB forgets an
    interruption that comes between two of its statements."""

    def __init__(self) -> None:
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._stopped = False

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """The connection that runs the query. Called by the engine."""
        self._connection = connection

    def stop(self) -> None:
        """Whoever runs or reads the query gets QueryRefused."""
        self._stopped = True
        if self._connection is not None:
            # A query that has ended closed its connection
            with suppress(duckdb.ConnectionException):
                self._connection.interrupt()

    def check(self) -> None:
        """Raises QueryRefused when stopped."""
        if self._stopped:
            raise QueryRefused("the query was interrupted")


class Answer:
    """A running query. Read it once, by iterating over its record batches or with `read_all`, and close it."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        reader: pa.RecordBatchReader,
        plans: tuple[TablePlan, ...],
        release: Callable[[], None],
    ) -> None:
        self.plans = plans
        self._connection = connection
        self._reader = reader
        self._release = release

    @property
    def schema(self) -> pa.Schema:
        """Columns of the answer."""
        return self._reader.schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        with translated_errors():
            yield from self._reader

    def read_all(self) -> pa.Table:
        """What is left, as one table."""
        with translated_errors():
            return self._reader.read_all()

    def close(self) -> None:
        """Give memory, temporary files and local copies back."""
        self._reader.close()
        self._connection.close()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def translated_errors() -> Iterator[None]:
    """DuckDB's errors as ours: a file that cannot be read, or a statement that cannot be answered."""
    try:
        yield
    except duckdb.Error as error:
        raise _translate(str(error)) from error
    except RuntimeError as error:
        # How DuckDB's Python client reports Ctrl-C
        if "interrupted" not in str(error):
            raise
        raise KeyboardInterrupt from error
    except (OSError, pa.ArrowInvalid) as error:
        # What goes wrong while an answer streams arrives through Arrow, as text
        raise _translate(str(error)) from error


def _translate(text: str) -> K2Error:
    if text.startswith(("IO Error", "HTTP Error")):
        return WarehouseUnavailable(text, advice="`k2 doctor` tries the warehouse; a query may be asked again")
    if text.startswith("Out of Memory Error"):
        advice = "ask for less at once, or raise K2_QUERY_MEMORY_MEGABYTES or K2_QUERY_TEMP_MEGABYTES"
        return QueryRefused(text, advice=advice)
    if text.startswith("Catalog Error: Table"):
        return QueryRefused(text, advice=f"tables are named with their schema, as {table_name('ticks')}")
    return QueryRefused(text)
