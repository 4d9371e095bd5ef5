"""Writing a streamed answer as a table, CSV, JSON or Parquet.

Exactness before convenience: decimals are text in JSON and CSV, times are ISO 8601 in UTC, bytes are base64.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import BinaryIO

import click
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from k2_dagster.cli.common import json_value, text_value
from k2_dagster.cli.tables import print_table, width_of_output
from k2_dagster.observability.printable import printable, printable_json

# A person reads no more than this, and a table must be in memory to be aligned.
TABLE_ROWS = 1_000

Batches = Iterable[pa.RecordBatch]


def write_table(schema: pa.Schema, batches: Batches, output: BinaryIO) -> int:
    """Aligned text; rows beyond TABLE_ROWS are not read, and the last line says so."""
    table = Table(*(escape(printable(name)) for name in schema.names), box=None, header_style="bold", pad_edge=False)
    rows: Iterator[dict[str, object]] = chain.from_iterable(batch.to_pylist() for batch in batches)
    shown = 0
    for row in rows:
        if shown == TABLE_ROWS:
            click.echo(f"only the first {TABLE_ROWS:,} rows are shown; --format csv gives all", err=True)
            break
        table.add_row(*(Text(printable(text_value(row[name]))) for name in schema.names))
        shown += 1
    text = io.StringIO()
    print_table(Console(file=text, width=width_of_output()), table)
    output.write("".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines()).encode())
    return shown


def write_csv(schema: pa.Schema, batches: Batches, output: BinaryIO) -> int:
    """With a header; nested values as JSON."""
    flat = pa.schema([pa.field(field.name, _csv_type(field.type)) for field in schema])
    rows = 0
    with pa_csv.CSVWriter(output, flat, write_options=pa_csv.WriteOptions(quoting_style="needed")) as writer:
        for batch in batches:
            writer.write_batch(pa.RecordBatch.from_arrays([_flattened(one) for one in batch.columns], schema=flat))
            rows += batch.num_rows
    return rows


def write_json(schema: pa.Schema, batches: Batches, output: BinaryIO) -> int:  # noqa: ARG001  (one signature for all)
    """An array of objects, one per line."""
    rows = 0
    output.write(b"[")
    for row in chain.from_iterable(batch.to_pylist() for batch in batches):
        line = printable_json(json.dumps(row, default=json_value, ensure_ascii=False))
        output.write(f"{',' if rows else ''}\n{line}".encode())
        rows += 1
    output.write(b"\n]\n")
    return rows


def write_parquet(schema: pa.Schema, batches: Batches, output: BinaryIO) -> int:
    """A row group per batch, zstd."""
    rows = 0
    with pq.ParquetWriter(output, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


WRITERS: dict[str, Callable[[pa.Schema, Batches, BinaryIO], int]] = {
    "table": write_table,
    "csv": write_csv,
    "json": write_json,
    "parquet": write_parquet,
}


def _csv_type(of_type: pa.DataType) -> pa.DataType:
    return pa.string() if _needs_text(of_type) else of_type


def _needs_text(of_type: pa.DataType) -> bool:
    types = pa.types
    return any(is_such(of_type) for is_such in (types.is_nested, types.is_binary, types.is_timestamp, types.is_decimal))


def _flattened(column: pa.Array) -> pa.Array:
    """What PyArrow's writer cannot write, or would write otherwise (1E-8), as text."""
    if not _needs_text(column.type):
        return column
    if pa.types.is_timestamp(column.type):
        zone = "Z" if column.type.tz else ""
        return pa.compute.strftime(column, format=f"%Y-%m-%dT%H:%M:%S{zone}")
    to_text = _json if pa.types.is_nested(column.type) else json_value
    return pa.array([None if one is None else to_text(one) for one in column.to_pylist()], pa.string())


def _json(value: object) -> str:
    return json.dumps(value, default=json_value, ensure_ascii=False)
