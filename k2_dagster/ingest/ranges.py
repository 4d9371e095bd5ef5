"""Numbers that need not be shown to Pandera row by row: those between two that it has accepted."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
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
        return bool(self.lowest <= found["min"].as_py() and found["max"].as_py() <= self.highest)

    def outside(self, column: pa.Array) -> npt.NDArray[np.bool_]:
        """Which numbers of the column (int64) are none of them."""
        numbers = (column.fill_null(self.lowest) if column.null_count else column).to_numpy()
        out: npt.NDArray[np.bool_] = (numbers < self.lowest) | (numbers > self.highest)
        return out


class Numbers:
    """Numbers judged by Pandera, which is asked about both ends of each rule first. A rule on a number is a range, so
    what lies between is accepted too, and of a batch only the rows are shown to it that have a number outside: all of
    them would cost a third of decoding them.
    """

    def __init__(self, schema: DataFrameSchema, rules: Mapping[str, Rule]) -> None:
        """Raises SchemaError when the schema refuses an end: then it does not say what the rules say."""
        ends = {name: [rule.minimum, rule.maximum] for name, rule in rules.items()}
        schema.validate(pl.DataFrame(ends, schema=dict.fromkeys(ends, pl.Int64)))
        self._schema = schema
        self._ranges = {
            name: Range(lowest, highest)
            for name, (lowest, highest) in ends.items()
            if lowest is not None and highest is not None
        }

    def failures(self, columns: Mapping[str, pa.Array]) -> list[tuple[str, int, int]]:
        """Column, row and number of all that is refused."""
        return [
            (name, row, number)
            for name, held in self._ranges.items()
            if not held.hold(columns[name])
            for row, number in self._refused(name, whole(columns[name]))
        ]

    def _refused(self, name: str, column: pa.Array) -> list[tuple[int, int]]:
        rows = np.flatnonzero(self._ranges[name].outside(column))
        shown = pl.DataFrame({name: pl.Series(column.take(pa.array(rows)))})
        accepted = np.ones(len(rows), dtype=bool)
        for check in self._schema.columns[name].checks:
            accepted &= check(shown.lazy(), name).check_output.collect().to_series().to_numpy()
        refused = np.flatnonzero(~accepted)
        return list(zip(rows[refused].tolist(), shown[name].gather(refused).to_list(), strict=True))


def whole(array: pa.Array) -> pa.Array:
    """The column as int64; times are microseconds."""
    if pa.types.is_timestamp(array.type):
        return array.view(pa.int64())
    return array if array.type == pa.int64() else array.cast(pa.int64())
