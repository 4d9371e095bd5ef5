"""Rows of a batch in the order of a file: columns are put together here, each value moved once."""

from functools import lru_cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest.columns import Codes
from k2_dagster.ingest.fixed import fixed

Int64s = npt.NDArray[np.int64]

# Columns that say the same on every row are slices of these; a batch has some five types of them.
_SHARED_KEPT = 16


def nothing(type_: pa.DataType, count: int) -> pa.Array:
    """So many nulls. Tables share them: each for itself would be a fifth of a table."""
    return _nulls(type_, _rounded(count)).slice(0, count)


def text_column(codes: Codes, rows: Int64s) -> pa.DictionaryArray:
    """The texts of these rows; most columns have one for all of them."""
    if codes.values == [None]:
        return pa.DictionaryArray.from_arrays(nothing(pa.int32(), len(rows)), pa.array([], pa.string()))
    if len(codes.values) == 1:
        firsts = _zeros(_rounded(len(rows))).slice(0, len(rows))
        return pa.DictionaryArray.from_arrays(firsts, pa.array(codes.values, pa.string()), safe=False)
    return Codes(gather(codes.indices, rows), codes.values).arrow()


def _rounded(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


@lru_cache(maxsize=_SHARED_KEPT)
def _nulls(type_: pa.DataType, count: int) -> pa.Array:
    return pa.nulls(count, type_)


@lru_cache(maxsize=_SHARED_KEPT)
def _zeros(count: int) -> pa.Array:
    return pa.array(np.zeros(count, dtype=np.int32))


def gather_array(array: pa.Array, rows: Int64s) -> pa.Array:
    """The array's values at these places, which must lie in it."""
    if array.null_count == len(array):
        return nothing(array.type, len(rows))
    if array.null_count == 0 and _is_number(array.type):
        taken = gather(_numbers(array), rows)
        return pa.Array.from_buffers(array.type, len(rows), [None, pa.py_buffer(taken)])
    if pa.types.is_list(array.type) and _are_empty(array):
        offsets = pa.array(np.zeros(len(rows) + 1, dtype=np.int32))
        return pa.ListArray.from_arrays(offsets, array.values.slice(0, 0), type=array.type)
    return array.take(pa.array(rows))


def gather(values: npt.NDArray[Any], rows: Int64s) -> npt.NDArray[Any]:
    """`values[rows]`, without a look at whether the places lie in it."""
    out: npt.NDArray[Any] = _gather(fixed(values), fixed(rows))
    return out


def gather_wide(values: Int64s, rows: Int64s) -> Int64s:
    """`values[rows]` as 128 bits each: the value is the low word, its sign the high one."""
    out: Int64s = _gather_wide(fixed(values), fixed(rows))
    return out


@numba.njit(cache=True, nogil=True)
def _gather(values, rows):  # type: ignore[no-untyped-def]
    out = np.empty(len(rows), dtype=values.dtype)
    for at in range(len(rows)):
        out[at] = values[rows[at]]
    return out


@numba.njit(cache=True, nogil=True)
def _gather_wide(values, rows):  # type: ignore[no-untyped-def]
    out = np.empty(2 * len(rows), dtype=np.int64)
    for at in range(len(rows)):
        value = values[rows[at]]
        out[2 * at] = value
        out[2 * at + 1] = value >> 63
    return out


def _is_number(type_: pa.DataType) -> bool:
    return pa.types.is_timestamp(type_) or type_ in (pa.int64(), pa.int32())


def _numbers(array: pa.Array) -> npt.NDArray[np.int64] | npt.NDArray[np.int32]:
    whole = array.view(pa.int64()) if pa.types.is_timestamp(array.type) else array
    out: npt.NDArray[np.int64] = whole.to_numpy()
    return out


def _are_empty(array: pa.ListArray) -> bool:
    return bool(array.null_count == 0 and array.offsets[0] == array.offsets[-1])
