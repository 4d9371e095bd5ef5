"""Decimal text to scaled integers, exactly or not at all."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from k2_dagster.errors import CaptureInvalid
from k2_dagster.schemas.declaration import PRICE_SCALE, SIZE_SCALE

# One conversion serves prices and sizes.
assert PRICE_SCALE == SIZE_SCALE
# Decimals of a second.
MICROSECOND_DIGITS = 6
_DECIMAL = pa.decimal128(38, PRICE_SCALE)


def scaled(texts: Sequence[str | None] | pa.Array, field: str) -> pa.Int64Array:
    """Numbers in text, times 10^8, as int64; nulls stay null.

    Raises CaptureInvalid, naming `field`, when any is not a number, has a digit beyond the eighth decimal that is not
    zero, or does not fit 64 bits. Nothing is rounded.
    """
    try:
        decimals = pa.array(texts, pa.string()).cast(_DECIMAL)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise _inexact(field, str(error)) from error
    # A decimal128 is two little-endian words; it fits one when the upper only repeats the sign.
    words = np.frombuffer(decimals.buffers()[1], np.int64).reshape(-1, 2)
    words = words[decimals.offset : decimals.offset + len(decimals)]
    missing = decimals.is_null().to_numpy(zero_copy_only=False)
    if np.any(((words[:, 0] >> 63) != words[:, 1]) & ~missing):
        raise _inexact(field, "a value times 10^8 does not fit 64 bits")
    return pa.array(words[:, 0], pa.int64(), mask=missing)


def scaled_integers(units: NDArray[np.int64], factor: int, field: str) -> pa.Int64Array:
    """Integers in units of 1/`factor` (a divisor of 10^8), times 10^8. Raises CaptureInvalid when one overflows."""
    multiplier = 10**PRICE_SCALE // factor
    limit = np.iinfo(np.int64).max // multiplier
    if np.any((units > limit) | (units < -limit)):
        raise _inexact(field, "a value times 10^8 does not fit 64 bits")
    return pa.array(units * multiplier, pa.int64())


def seconds_to_nanos(texts: Sequence[str], field: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Unix seconds in decimal text to nanoseconds, and which of the texts say more than the microsecond. Raises
    CaptureInvalid as `scaled` does."""
    nanos: NDArray[np.int64] = np.asarray(scaled(texts, field), np.int64) * (10**9 // 10**PRICE_SCALE)
    finer = np.fromiter((len(text.partition(".")[2]) > MICROSECOND_DIGITS for text in texts), np.bool_, len(texts))
    return nanos, finer


def _inexact(field: str, found: str) -> CaptureInvalid:
    return CaptureInvalid(
        f"{field}: {found}", advice="valid: a decimal number with at most 8 decimals, below 92,233,720,368", field=field
    )
