"""Numbers that need not be shown to Pandera row by row: those between two that it has accepted."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pandera.errors import SchemaErrors
from pandera.polars import DataFrameSchema

from k2_dagster.schemas.declaration import Rule


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers of a column that Pandera accepts, both ends included."""

    lowest: int
    highest: int

    def hold(self, column: pa.Array) -> bool:
        """Whether every number of the column is one of them. Nulls are no numbers; times count as microseconds."""
        if column.null_count == len(column):
            return True
        found = pc.min_max(column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column)
        return self.lowest <= found["min"].as_py() and found["max"].as_py() <= self.highest


def accepted_ranges(schema: DataFrameSchema, rules: Mapping[str, Rule]) -> dict[str, Range]:
    """What the schema accepts of each column: it is asked about both ends of the rule, and a number rule is a range.

    So only a batch with a number outside has to be looked at row by row, which costs a third of decoding it. Raises
    SchemaError when the schema refuses an end: then it does not say what the rules say.
    """
    ends = {name: [rule.minimum, rule.maximum] for name, rule in rules.items()}
    schema.validate(pl.DataFrame(ends, schema=dict.fromkeys(ends, pl.Int64)))
    return {
        name: Range(lowest, highest)
        for name, (lowest, highest) in ends.items()
        if lowest is not None and highest is not None
    }


def failures(schema: DataFrameSchema, columns: Mapping[str, pa.Array]) -> list[tuple[str, int]]:
    """Column and row of every number that the schema refuses, of some of its columns (int64)."""
    others = [name for name in schema.columns if name not in columns]
    frame = pl.DataFrame(pl.from_arrow(pa.table(dict(columns))))
    try:
        (schema.remove_columns(others) if others else schema).validate(frame, lazy=True)
    except SchemaErrors as error:
        return [(str(name), int(row)) for name, row in error.failure_cases.select("column", "index").iter_rows()]
    return []


def whole(array: pa.Array) -> pa.Array:
    """The column as int64; times are microseconds."""
    if pa.types.is_timestamp(array.type):
        return array.view(pa.int64())
    return array if array.type == pa.int64() else array.cast(pa.int64())
