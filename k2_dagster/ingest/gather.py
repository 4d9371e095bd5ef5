"""Rows of a batch in the order of a file: columns are put together here, each value moved once."""

from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64s = npt.NDArray[np.int64]

# Columns without a value are slices of these, by type; a batch has some three types of them.
_NOTHINGS_KEPT = 16


def nothing(type_: pa.DataType, count: int) -> pa.Array:
    """So many nulls. Tables share them: each for itself would be a fifth of a table."""
    return _nulls(type_, 1 << max(0, count - 1).bit_length()).slice(0, count)


@lru_cache(maxsize=_NOTHINGS_KEPT)
def _nulls(type_: pa.DataType, count: int) -> pa.Array:
    return pa.nulls(count, type_)


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


@numba.njit(cache=True, nogil=True)
def gather(values, rows):  # type: ignore[no-untyped-def]
    """`values[rows]`, without a look at whether the places lie in it."""
    out = np.empty(len(rows), dtype=values.dtype)
    for at in range(len(rows)):
        out[at] = values[rows[at]]
    return out


@numba.njit(cache=True, nogil=True)
def gather_wide(values, rows):  # type: ignore[no-untyped-def]
    """`values[rows]` as 128 bits each: the value is the low word, its sign the high one."""
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
    return array.null_count == 0 and array.offsets[0] == array.offsets[-1]
