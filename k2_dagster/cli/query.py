"""`k2 query`."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import click

from k2_dagster.cli.common import emit, settings
from k2_dagster.cli.formats import WRITERS
from k2_dagster.errors import ConfigurationError
from k2_dagster.query.answer import Interruption
from k2_dagster.query.engine import QueryEngine
from k2_dagster.query.plan import TablePlan

# DuckDB forgets an interruption that comes between two of its statements, so it is repeated until it is heard.
INTERRUPT_AGAIN_SECONDS = 0.1


@click.command()
@click.argument("sql")
@click.option(
    "--format",
    "form",
    type=click.Choice(list(WRITERS)),
    default="table",
    show_default=True,
    help="How rows are written.",
)
@click.option("--json", "form", flag_value="json", help="As --format json.")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Into this file.")
@click.option("--explain", is_flag=True, help="Say which files would be read, and read none. --format json or table.")
def query(sql: str, form: str, output: Path | None, explain: bool) -> None:
    """Ask the tables in SQL; `-` reads the statement from standard input.

    Tables: market_data.ticks, quotes, book, control, instruments and quarantine, with every column, and `timestamp` and
    `date` (UTC) beside them; on ticks also `volume`. market_data.symbols has the current row of instruments of each
    symbol. The coverage ledger: market_data.coverage, gaps, resets, connections and holds. The history is asked, up to
    each table's last commit. The SQL is trusted: it runs with your rights on this machine.
    """
    statement = sys.stdin.read() if sql == "-" else sql
    if form == "parquet" and output is None and sys.stdout.isatty() and not explain:
        raise click.UsageError("Parquet is not for a terminal: give --output FILE")
    with QueryEngine(settings()) as engine:
        if explain:
            _explain(engine.explain(statement), as_json=form == "json")
            return
        rows = _interruptible(lambda interruption: _write(engine, statement, form, output, interruption))
    if output is not None:
        click.echo(f"{rows:,} rows in {output}", err=True)


def _explain(plans: tuple[TablePlan, ...], *, as_json: bool) -> None:
    rows = [
        {
            "table": plan.table,
            "files": len(plan.files),
            "of_files": plan.total_files,
            "rows": plan.rows,
            "of_rows": plan.total_rows,
            "bytes": plan.size_bytes,
            "of_bytes": plan.total_bytes,
            "snapshot": None if plan.snapshot_id is None else str(plan.snapshot_id),
            "planned_by": plan.filter,
        }
        for plan in plans
    ]
    emit(rows, as_json)


def _write(engine: QueryEngine, statement: str, form: str, output: Path | None, interruption: Interruption) -> int:
    with engine.open(statement, interruption=interruption) as answer, _target(output) as target:
        return WRITERS[form](answer.schema, answer, target)


def _interruptible(work: Callable[[Interruption], int]) -> int:
    """Run it in a thread: while DuckDB works it does not look for Ctrl-C, but this thread hears it."""
    interruption = Interruption()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work, interruption)
        try:
            return working.result()
        except KeyboardInterrupt:
            while not working.done():
                interruption.stop()
                wait([working], INTERRUPT_AGAIN_SECONDS)
            raise


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}", advice="--output names a file in a folder that is there"
        ) from error


@contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that has its name only when it is complete."""
    if output is None:
        yield sys.stdout.buffer
        return
    if output.exists() and not output.is_file():  # a device or a pipe: never to be replaced by a file
        with _opened(output) as file:
            yield file
        return
    partial = output.with_name(f".{output.name}.partial")
    try:
        with _opened(partial) as file:
            yield file
        partial.replace(output)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
