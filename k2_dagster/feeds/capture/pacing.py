"""When each row of a capture is due, and how a block is cut so that rows leave on time."""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Rows due within one window leave together. Shorter than any feed's own batching is of no use, longer is visible as
# bursts.
WINDOW_SECONDS = 0.02
MICROS_PER_SECOND = 1_000_000


class Pace:
    """The timing of one capture. `speed` is how many recorded seconds pass in one; None is flat out.

    A row is due when the recorder received it (where there is no receive time, when it happened), counted from the
    capture's first row; a row that claims to be earlier than one before it is due with that one.
    """

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._origin: int | None = None
        self._latest = 0

    def cut(self, batches: Mapping[str, pa.RecordBatch]) -> Iterator[tuple[float, dict[str, pa.RecordBatch]]]:
        """The rows of a block as (seconds from the start of the capture, dataset -> rows), in order of time."""
        batches = {dataset: rows for dataset, rows in batches.items() if rows.num_rows}
        if self._speed is None or not batches:
            yield 0.0, dict(batches)
            return
        due = {dataset: _recorded_micros(rows) for dataset, rows in batches.items()}
        if self._origin is None:
            self._origin = self._latest = min(int(micros[0]) for micros in due.values())
        windows = {dataset: self._windows(micros, self._speed, self._origin) for dataset, micros in due.items()}
        self._latest = max(self._latest, *(int(micros.max()) for micros in due.values()))
        for window in np.unique(np.concatenate(list(windows.values()))).tolist():
            ready = {}
            for dataset, places in windows.items():
                start, stop = np.searchsorted(places, [window, window + 1]).tolist()
                if start < stop:
                    ready[dataset] = batches[dataset].slice(start, stop - start)
            yield window * WINDOW_SECONDS, ready

    def _windows(self, micros: NDArray[np.int64], speed: float, origin: int) -> NDArray[np.int64]:
        ordered = np.maximum.accumulate(np.maximum(micros, self._latest))
        windows: NDArray[np.int64] = ((ordered - origin) / (MICROS_PER_SECOND * speed * WINDOW_SECONDS)).astype(
            np.int64
        )
        return windows


def _recorded_micros(rows: pa.RecordBatch) -> NDArray[np.int64]:
    recorded = pc.coalesce(rows.column("receive_timestamp"), rows.column("exchange_timestamp"))
    micros: NDArray[np.int64] = recorded.cast(pa.int64()).to_numpy()
    return micros
