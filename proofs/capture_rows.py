"""Rows of tables, or in wire form, counted and digested as the independent parsers do with the captures."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from k2_dagster.verify.values import unscaled
from proofs.accounting import table_rows
from proofs.capture_truth import Level, Truth
from proofs.common import Lake

DATASETS = ("ticks", "quotes", "book")
# Values of a row, in the order in which `Truth.add` takes them.
VALUES = {
    "ticks": ("sequence", "price", "size", "side", "trade_id"),
    "quotes": ("sequence", "bid_price", "bid_size", "ask_price", "ask_size"),
    "book": ("sequence", "previous_sequence", "action", "bids", "asks"),
}
# Rows that are Python objects at once: the largest recording has a million.
ROWS_AT_ONCE = 50_000


def counted(lake: Lake, exchange: str) -> Truth:
    """What the tables hold of an exchange."""
    truth = Truth()
    for dataset in DATASETS:
        add_rows(truth, dataset, table_rows(lake, dataset, exchange, columns_of(dataset)))
    return truth


def columns_of(dataset: str) -> tuple[str, ...]:
    """The columns that are compared."""
    return ("symbol", "exchange_timestamp", *VALUES[dataset])


def add_rows(truth: Truth, dataset: str, rows: pa.Table) -> None:
    """Count and digest rows, of a table or in wire form."""
    for batch in rows.select(columns_of(dataset)).combine_chunks().to_batches(max_chunksize=ROWS_AT_ONCE):
        columns = [list(_plain(batch.column(name))) for name in batch.schema.names]
        for symbol, micros, *values in zip(*columns, strict=True):
            truth.add(dataset, symbol, micros, *values)


def _plain(column: pa.Array) -> Sequence[Any] | Iterator[Any]:
    """Times as microseconds, decimals as scaled integers, levels as (price, size)."""
    if pa.types.is_list(column.type):
        return _levels(column)
    if pa.types.is_decimal(column.type):
        column = unscaled(column)[0]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    plain: list[Any] = column.to_pylist()
    return plain


def _levels(column: pa.Array) -> Iterator[tuple[Level, ...]]:
    items = column.flatten()
    levels = list(zip(_plain(items.field("price")), _plain(items.field("size")), strict=True))
    end = 0
    for length in column.value_lengths().to_pylist():
        start, end = end, end + (length or 0)
        yield tuple(levels[start:end])
