"""What a venue format makes of a piece of a capture: rows in wire form, refusals, and what carries no event."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from k2_dagster.errors import CaptureInvalid
from k2_dagster.schemas.arrow import TIMESTAMP, wire_schema
from k2_dagster.schemas.control import NO_SYMBOL
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.refused import NOTHING_KNOWN, VenueIdentity
from k2_dagster.schemas.topics import CONTROL_DATASET

Int64s = NDArray[np.int64]
Flags = NDArray[np.bool_]
_SCHEMAS = {name: wire_schema(dataset) for name, dataset in WIRE_DATASETS.items()}
# What damaged input raises while its columns are built: a missing key, a wrong type, a wrong shape, a number too large.
DAMAGE = (CaptureInvalid, LookupError, TypeError, ValueError, OverflowError, AttributeError)

Built = TypeVar("Built")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Input that does not become a row: published as it is, so that it ends in quarantine and not in silence.

    `order` is its place among the capture's inputs, `place` what a person counts: the line or packet, from 1. A refusal
    of unknown dataset goes to `control`.
    """

    order: int
    place: int
    raw: bytes
    reason: str
    dataset: str = CONTROL_DATASET
    identity: VenueIdentity = NOTHING_KNOWN

    @property
    def symbol(self) -> str:
        """Whose key it has."""
        return self.identity.symbol or NO_SYMBOL


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in wire form, and of each the input (by its order in the capture) that it begins in, which never falls."""

    batch: pa.RecordBatch
    orders: Int64s

    def between(self, low: int, high: int) -> "Rows":
        """The rows of inputs [low, high)."""
        start, stop = np.searchsorted(self.orders, [low, high]).tolist()
        return Rows(self.batch.slice(start, stop - start), self.orders[start:stop])


@dataclass(frozen=True, slots=True)
class Skip:
    """An input that carries no market event, and what it is."""

    order: int
    what: str


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a capture: its inputs (lines, or messages) from the order `first` on. Each is in rows, refused or
    skipped.

    `arrivals` is given where channels carry more than rows: everything that arrived on them, in control's wire form,
    for the feed handler to judge; those with a kind are rows of `control`.
    """

    first: int
    inputs: int
    rows: Mapping[str, Rows]
    refusals: Sequence[Refusal] = ()
    skips: Sequence[Skip] = ()
    arrivals: Rows | None = None

    def between(self, low: int, high: int) -> "Block":
        """The part with the inputs [low, high)."""
        parts = {dataset: rows.between(low, high) for dataset, rows in self.rows.items()}
        return Block(
            first=low,
            inputs=high - low,
            rows={dataset: rows for dataset, rows in parts.items() if rows.batch.num_rows},
            refusals=[one for one in self.refusals if low <= one.order < high],
            skips=[one for one in self.skips if low <= one.order < high],
            arrivals=None if self.arrivals is None else self.arrivals.between(low, high),
        )


def wire_batch(dataset: str, rows: int, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """Rows of a dataset in wire form. A column is an array, a numpy array, a list, or one value for all rows; columns
    not given are null (lists: empty). Raises as Arrow does when values do not have the column's type, and
    CaptureInvalid when a required one is null."""
    batch = unchecked_batch(dataset, rows, columns)
    for one, array in zip(WIRE_DATASETS[dataset].wire_fields, batch.columns, strict=True):
        if one.required and array.null_count:
            raise CaptureInvalid(f"{one.name} is null", advice="the venue must give it", field=one.name)
    return batch


def unchecked_batch(dataset: str, rows: int, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """As `wire_batch`, for rows that are only looked at: required columns may be null."""
    schema = _SCHEMAS[dataset]
    return pa.RecordBatch.from_arrays([_column(columns.get(one.name), one.type, rows) for one in schema], schema=schema)


def times(prefix: str, nanos: Int64s, *, finer: Flags | None = None) -> dict[str, pa.Array]:
    """Columns `{prefix}_timestamp` and `{prefix}_timestamp_nanos` of Unix nanoseconds. The remainder is null where the
    source tells whole microseconds (not `finer`; without it all are finer)."""
    remainder = pa.array((nanos % 1000).astype(np.int32), mask=None if finer is None else ~finer)
    return {f"{prefix}_timestamp": timestamps(nanos // 1000), f"{prefix}_timestamp_nanos": remainder}


def timestamps(micros: Int64s | Sequence[int]) -> pa.Array:
    """Unix microseconds as a wire column. Raises as Arrow does for what is not an integer."""
    return pa.array(micros, pa.int64()).view(TIMESTAMP)


def levels(prices: pa.Array, sizes: pa.Array, counts: Int64s | Sequence[int]) -> pa.ListArray:
    """Book sides: `counts[i]` levels for row i out of the flat `prices` and `sizes` (scaled). Raises CaptureInvalid
    when a price or size is null."""
    if prices.null_count or sizes.null_count:
        raise CaptureInvalid("price or size of a level is null", advice="the venue must give both", field="levels")
    offsets = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    level_type = _SCHEMAS["book"].field("bids").type
    flat = pa.StructArray.from_arrays(
        [prices, sizes, pa.nulls(len(prices), pa.int32())], fields=list(level_type.value_type)
    )
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=level_type)


def keep_good(
    count: int, build: Callable[[int, int], Built]
) -> tuple[list[tuple[int, int, Built]], list[tuple[int, str]]]:
    """Build items [0, count) by the column, and find the bad ones when that fails.

    `build(start, stop)` raises one of `DAMAGE` when any item of its range is bad; then the halves are tried, so a few
    bad items cost a few more builds. Returns the parts (start, stop, built) in order, and (index, reason) of each bad
    item.
    """
    parts: list[tuple[int, int, Built]] = []
    bad: list[tuple[int, str]] = []
    ranges = [(0, count)] if count else []
    while ranges:
        start, stop = ranges.pop()
        try:
            parts.append((start, stop, build(start, stop)))
        except DAMAGE as error:
            if stop - start == 1:
                bad.append((start, explain(error)))
            else:
                middle = (start + stop) // 2
                ranges += [(middle, stop), (start, middle)]
    return parts, bad


def explain(error: BaseException) -> str:
    """One line on why input was refused."""
    if isinstance(error, CaptureInvalid):
        return error.message
    if isinstance(error, KeyError):
        return f"field {error} is missing"
    return f"{type(error).__name__}: {error}".splitlines()[0]


def in_file_order(parts: Sequence[Rows]) -> Rows:
    """Merge the streams of one dataset."""
    if len(parts) == 1:
        return parts[0]
    merged = pa.concat_batches([one.batch for one in parts])
    orders = np.concatenate([one.orders for one in parts])
    sequence = np.argsort(orders, kind="stable")
    return Rows(merged.take(pa.array(sequence)), orders[sequence])


def _column(values: Any, type_: pa.DataType, rows: int) -> pa.Array:
    if values is None:
        if pa.types.is_list(type_):
            return pa.ListArray.from_arrays(pa.array(np.zeros(rows + 1, np.int32)), pa.array([], type_.value_type))
        return pa.nulls(rows, type_)
    if isinstance(values, pa.Array):
        return values if values.type == type_ else values.cast(type_)
    if isinstance(values, (list, np.ndarray)):
        return pa.array(values, type_)
    return pa.repeat(pa.scalar(values, type_), rows)
