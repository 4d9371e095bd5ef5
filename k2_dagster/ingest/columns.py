"""Texts as codes: small integers with a list of distinct values, which is what sorting, judging and writing work on."""

import math
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest.fixed import fixed
from k2_dagster.schemas.declaration import Dataset, FieldType

# Texts without a rule, mostly distinct on every row: coding them would cost more than it saves.
_FREE_TEXTS = ("trade_id", "refers_to", "reason")


@dataclass(frozen=True, slots=True)
class Codes:
    """One text column: `values[indices[row]]` is the row's text. A null has the index of a None in `values`."""

    indices: npt.NDArray[np.int32]
    values: list[str | None]

    def take(self, rows: npt.NDArray[np.int64]) -> "Codes":
        """The same values for some of the rows."""
        if len(self.values) == 1:
            return Codes(np.zeros(len(rows), dtype=np.int32), self.values)
        return Codes(self.indices[rows], self.values)

    def arrow(self) -> pa.DictionaryArray:
        """As an Arrow dictionary array."""
        if self.values == [None]:
            nothing = pa.nulls(len(self.indices), pa.int32())
            return pa.DictionaryArray.from_arrays(nothing, pa.array([], pa.string()))
        known = [one for one in self.values if one is not None]
        if len(known) == len(self.values):
            return pa.DictionaryArray.from_arrays(pa.array(self.indices), pa.array(self.values, pa.string()))
        hole = self.values.index(None)
        mask = self.indices == hole
        shifted = np.where(self.indices > hole, self.indices - 1, self.indices)
        indices = pa.array(np.where(mask, 0, shifted).astype(np.int32), mask=mask)
        return pa.DictionaryArray.from_arrays(indices, pa.array(known, pa.string()))


def coded_texts(dataset: Dataset) -> frozenset[str]:
    """Texts of the wire form that few values share."""
    return frozenset(
        one.name for one in dataset.wire_fields if one.type is FieldType.STRING and one.name not in _FREE_TEXTS
    )


def encode(array: pa.Array) -> Codes:
    """Codes of a string array, which may be coded already. A column of one value, as most are, costs one comparison of
    its bytes."""
    count = len(array)
    if array.null_count == count:
        return Codes(np.zeros(count, dtype=np.int32), [None])
    if isinstance(array, pa.DictionaryArray):
        return _used(array)
    if array.null_count == 0 and _constant(array):
        return Codes(np.zeros(count, dtype=np.int32), [array[0].as_py()])
    encoded = array.dictionary_encode(null_encoding="encode")
    return Codes(encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist())


def _used(array: pa.DictionaryArray) -> Codes:
    """Codes of a dictionary array, without the values that no row has."""
    values: list[str | None] = array.dictionary.to_pylist()
    indices: npt.NDArray[np.int32] = array.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    if array.null_count:
        values = [*values, None]
    if len(values) == 1:
        return Codes(indices, values)
    used = np.bincount(indices, minlength=len(values)) > 0
    if used.all():
        return Codes(indices, values)
    place = np.cumsum(used, dtype=np.int32) - 1
    return Codes(place[indices].astype(np.int32, copy=False), [values[at] for at in np.flatnonzero(used)])


# Places and distinct numbers of combinations, by the columns that made them, which it keeps alive.
Known = dict[tuple[tuple[int, int], ...], tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list["Codes"]]]


def combine(
    columns: list[Codes], known: Known | None = None
) -> tuple[npt.NDArray[np.int64], list[tuple[str | None, ...]]]:
    """Codes of the combinations: an index per row, and the distinct combinations that occur.

    `known` remembers them for another call with the same arrays; nobody may change the index then.
    """
    size = math.prod(len(column.values) for column in columns)
    if size > _LARGEST_CODE:
        return _combine_stepwise(columns)
    # a column of one value adds nothing
    telling = [column for column in columns if len(column.values) > 1]
    key = tuple((id(column.indices), len(column.values)) for column in telling)
    if known is not None and key in known:
        rows, distinct, _ = known[key]
        return rows, _decombine(distinct, columns)
    rows = _numbered(telling, len(columns[0].indices))
    if size <= _TABLE_LIMIT:
        distinct = _ranked(rows, size)
    else:
        distinct, rows = np.unique(rows, return_inverse=True)
    if known is not None:
        known[key] = rows, distinct, telling
    return rows, _decombine(distinct, columns)


def _numbered(columns: list[Codes], count: int) -> npt.NDArray[np.int64]:
    """A number for each row's combination."""
    if not columns:
        return np.zeros(count, dtype=np.int64)
    out = columns[0].indices.astype(np.int64)
    for column in columns[1:]:
        _append_digit(out, fixed(column.indices), len(column.values))
    return out


@numba.njit(cache=True, nogil=True)
def _append_digit(numbers, digits, base):  # type: ignore[no-untyped-def]
    for row in range(len(numbers)):
        numbers[row] = numbers[row] * base + digits[row]


@numba.njit(cache=True, nogil=True)
def _ranked(numbers, size):  # type: ignore[no-untyped-def]
    """Replaces each number (below `size`) by its rank among those that occur, and returns these in order."""
    places = np.full(size, -1, dtype=np.int64)
    for row in range(len(numbers)):
        places[numbers[row]] = 0
    distinct = np.empty(min(size, len(numbers)), dtype=np.int64)
    count = 0
    for number in range(size):
        if places[number] == 0:
            places[number] = count
            distinct[count] = number
            count += 1
    for row in range(len(numbers)):
        numbers[row] = places[numbers[row]]
    return distinct[:count]


def _combine_stepwise(columns: list[Codes]) -> tuple[npt.NDArray[np.int64], list[tuple[str | None, ...]]]:
    """For more possible combinations than an integer can number; those that occur are never more than the rows."""
    rows, parts = combine(columns[:-1])
    last = columns[-1]
    distinct, places = np.unique(rows * len(last.values) + last.indices, return_inverse=True)
    pairs = [divmod(one, len(last.values)) for one in distinct.tolist()]
    return places, [(*parts[at], last.values[of_last]) for at, of_last in pairs]


_LARGEST_CODE = 2**63 - 1
# Up to this many possible combinations a table of them is cheaper than sorting (4 M entries, 36 MB for a moment).
_TABLE_LIMIT = 4_000_000


def _decombine(distinct: npt.NDArray[np.int64], columns: list[Codes]) -> list[tuple[str | None, ...]]:
    parts: list[list[str | None]] = []
    rest = distinct
    for column in reversed(columns):
        rest, at = np.divmod(rest, len(column.values))
        parts.append([column.values[one] for one in at.tolist()])
    return list(zip(*reversed(parts), strict=True))


def _constant(array: pa.Array) -> bool:
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int32)[array.offset : array.offset + len(array) + 1]
    width = int(offsets[1] - offsets[0])
    if int(offsets[-1] - offsets[0]) != width * len(array) or np.any(np.diff(offsets) != width):
        return False
    if width == 0:
        return True
    data = np.frombuffer(array.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]]
    return bool(np.array_equal(data[:-width], data[width:]))
