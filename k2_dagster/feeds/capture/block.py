"""What a venue format makes of a piece of a capture: rows in wire form, refusals, and what carries no event."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from k2_dagster.errors import CaptureInvalid
from k2_dagster.schemas.arrow import TIMESTAMP, wire_schema
from k2_dagster.schemas.control import NO_SYMBOL
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.topics import CONTROL_DATASET

_SCHEMAS = {name: wire_schema(dataset) for name, dataset in WIRE_DATASETS.items()}
# What damaged input raises while its columns are built: a missing key, a wrong type, a wrong shape, a number too large.
DAMAGE = (CaptureInvalid, LookupError, TypeError, ValueError, OverflowError, AttributeError)

Built = TypeVar("Built")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Input that does not become a row: published as it is, so that it ends in quarantine and not in silence.

    `place` is the line (or packet) number, from 1. A refusal of unknown dataset goes to `control`.
    """

    place: int
    raw: bytes
    reason: str
    dataset: str = CONTROL_DATASET
    symbol: str = NO_SYMBOL


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a capture. `inputs` counts its lines or messages; `skipped` those that carry no market event, by
    what they are; `batches` (dataset -> rows in wire form) are in file order."""

    inputs: int
    batches: Mapping[str, pa.RecordBatch]
    refusals: Sequence[Refusal] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)


def wire_batch(dataset: str, rows: int, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """Rows of a dataset in wire form. A column is an array, a numpy array, a list, or one value for all rows; columns
    not given are null (lists: empty). Raises as Arrow does when values do not have the column's type, and
    CaptureInvalid when a required one is null."""
    schema = _SCHEMAS[dataset]
    arrays = [_column(columns.get(one.name), one.type, rows) for one in schema]
    for one, array in zip(WIRE_DATASETS[dataset].wire_fields, arrays, strict=True):
        if one.required and array.null_count:
            raise CaptureInvalid(f"{one.name} is null", advice="the venue must give it", field=one.name)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def times(prefix: str, nanos: NDArray[np.int64], *, keep_remainder: bool = True) -> dict[str, pa.Array]:
    """Columns `{prefix}_timestamp` and `{prefix}_timestamp_nanos` of Unix nanoseconds."""
    columns = {f"{prefix}_timestamp": timestamps(nanos // 1000)}
    if keep_remainder:
        columns[f"{prefix}_timestamp_nanos"] = pa.array((nanos % 1000).astype(np.int32))
    return columns


def timestamps(micros: NDArray[np.int64] | Sequence[int]) -> pa.Array:
    """Unix microseconds as a wire column. Raises as Arrow does for what is not an integer."""
    return pa.array(micros, pa.int64()).view(TIMESTAMP)


def levels(prices: pa.Array, sizes: pa.Array, counts: NDArray[np.int64] | Sequence[int]) -> pa.ListArray:
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


def in_file_order(parts: Sequence[tuple[NDArray[np.int64], pa.RecordBatch]]) -> pa.RecordBatch:
    """Merge the streams of one dataset: each part has the place in the file of each of its rows."""
    if len(parts) == 1:
        return parts[0][1]
    merged = pa.concat_batches([batch for _, batch in parts])
    places = np.concatenate([places for places, _ in parts])
    return merged.take(pa.array(np.argsort(places, kind="stable")))


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
