"""When each row of a capture is due, and how a block is cut so that rows leave on time."""

import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2_dagster.feeds.capture.block import Block, Int64s
from k2_dagster.schemas.common import MICROS_PER_SECOND

# Rows due within one window leave together. Shorter than any feed's own batching is of no use, longer is visible as
# bursts.
WINDOW_SECONDS = 0.02


class Pace:
    """The timing of one capture. `speed` is how many recorded seconds pass in one; None is flat out.

    A row is due when the recorder received it (where there is no receive time, when it happened), counted from the
    capture's first row; a row that claims to be earlier than one before it is due with that one. `origin_micros` and
    `latest_micros` are the recorded times of the first row and of the newest so far, None before any.
    """

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self.origin_micros: int | None = None
        self.latest_micros: int | None = None

    def cut(self, block: Block) -> Iterator[tuple[float, Block]]:
        """The block as (seconds from the start of the capture, part), in the order of its inputs."""
        orders, micros = _recorded(block)
        if not len(orders):
            yield self._due(self.latest_micros), block
            return
        if self.origin_micros is None:
            self.origin_micros = self.latest_micros = int(micros[0])
        ordered = np.maximum.accumulate(np.maximum(micros, self.latest_micros or 0))
        edges = [block.first, *self._starts(orders, ordered), block.first + block.inputs]
        for low, high in itertools.pairwise(edges):
            # Each part has rows: it begins with one, but for the first, which has those before the second
            first, following = np.searchsorted(orders, [low, high]).tolist()
            self.latest_micros = int(ordered[following - 1])
            yield self._due(int(ordered[first])), block.between(low, high)

    def _starts(self, orders: Int64s, ordered: Int64s) -> list[int]:
        """Orders at which another window begins."""
        if self._speed is None:
            return []
        windows = ((ordered - (self.origin_micros or 0)) / (MICROS_PER_SECOND * self._speed * WINDOW_SECONDS)).astype(
            np.int64
        )
        # Rows of one input leave together
        new = np.flatnonzero((np.diff(windows) > 0) & (np.diff(orders) > 0)) + 1
        starts: list[int] = orders[new].tolist()
        return starts

    def _due(self, micros: int | None) -> float:
        if self._speed is None or micros is None or self.origin_micros is None:
            return 0.0
        return (micros - self.origin_micros) / (MICROS_PER_SECOND * self._speed)


def _recorded(block: Block) -> tuple[Int64s, Int64s]:
    """Order and recorded time of every row, in the order of the inputs."""
    parts = [*block.rows.values(), *([] if block.arrivals is None else [block.arrivals])]
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    orders = np.concatenate([one.orders for one in parts])
    micros = np.concatenate([_micros(one.batch) for one in parts])
    sequence = np.argsort(orders, kind="stable")
    return orders[sequence], micros[sequence]


def _micros(rows: pa.RecordBatch) -> Int64s:
    recorded = pc.coalesce(rows.column("receive_timestamp"), rows.column("exchange_timestamp"))
    micros: Int64s = recorded.cast(pa.int64()).to_numpy()
    return micros
