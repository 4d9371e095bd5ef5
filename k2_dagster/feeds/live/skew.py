"""How far the receiver's clock is from the venue's, as far as messages show it: receive time minus the venue's time.

It has the way of the message in it, so it is above the true difference of the clocks by that; where it is negative, the
receiver's clock is behind.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2_dagster.schemas.common import TIME_SOURCE_FIELD

# The newest differences, of which the median is told. A few seconds of a busy venue.
WINDOW_ROWS = 1_000
_MILLISECOND_MICROS = 1_000


@dataclass(frozen=True, slots=True)
class Skew:
    """Milliseconds: median of the newest rows, least of all (the way was shortest then); and how many rows."""

    median_milliseconds: float
    least_milliseconds: float
    rows: int


class SkewMeter:
    """Of one connection. Rows in which the venue tells no time are left out."""

    def __init__(self) -> None:
        self._newest = np.zeros(0, np.int64)
        self._least = 0
        self._rows = 0

    def add(self, rows: pa.RecordBatch) -> None:
        """Rows of any dataset in wire form."""
        told = rows.filter(pc.is_null(rows.column(TIME_SOURCE_FIELD)))
        received, happened = (told.column(f"{name}_timestamp").cast(pa.int64()) for name in ("receive", "exchange"))
        differences = pc.subtract(received, happened).drop_null().to_numpy(zero_copy_only=False)
        if not len(differences):
            return
        least = int(differences.min())
        self._least = min(self._least, least) if self._rows else least
        self._rows += len(differences)
        self._newest = np.concatenate([self._newest, differences])[-WINDOW_ROWS:]

    @property
    def skew(self) -> Skew | None:
        """None before any row."""
        if not self._rows:
            return None
        median = float(np.median(self._newest)) / _MILLISECOND_MICROS
        return Skew(median, self._least / _MILLISECOND_MICROS, self._rows)
