"""What happens to each row of one batch: kept or not, in which order, how often, how spoiled."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from k2_dagster.feeds.simulator.truth import FaultRecord

Int64s = NDArray[np.int64]

# A nanosecond remainder that no clock can give: out of range where there is no price to spoil.
IMPOSSIBLE_NANOS = 1_000
NO_MESSAGE = -1
_PRICES = {"ticks": "price", "quotes": "bid_price"}


@dataclass(frozen=True)
class Injected:
    """Rows as they leave the venue, in send order.

    `repeat`: times each is sent to Kafka (0: lost there). `damage`: 0, or as `damaged` takes it. `version`: optional
    fields added to the schema. `message`: place of the affected ones in `messages`, else -1.
    """

    rows: pa.RecordBatch
    send_micros: Int64s
    repeat: Int64s
    damage: Int64s
    version: Int64s
    message: Int64s
    messages: list[dict[str, Any]]
    records: list[FaultRecord]


class Plan:
    """Mutable while faults are planted; `assembled` gives the result."""

    def __init__(self, rows: pa.RecordBatch, units: Int64s, numbers: Int64s, micros: Int64s, version: int) -> None:
        size = rows.num_rows
        self.rows, self.units, self.numbers, self.micros = rows, units, numbers, micros
        self.order = np.arange(size)
        self.keep = np.ones(size, np.bool_)
        self.repeat = np.ones(size, np.int64)
        self.damage = np.zeros(size, np.int64)
        self.version = np.full(size, version, np.int64)
        self.message = np.full(size, NO_MESSAGE, np.int64)
        # 1: a value of zero, 2: a negative one.
        self.spoiled = np.zeros(size, np.int64)
        self.next_free: dict[int, int] = {}
        # Held rows that are sent after the row at a place, with their places in the messages told.
        self.released: list[tuple[int, pa.RecordBatch, Int64s]] = []

    @classmethod
    def of_end(cls, rows: pa.RecordBatch, at_micros: int, version: int) -> "Plan":
        """The plan of the end of a run: no rows, but a place to release held ones at."""
        nothing = np.zeros(0, np.int64)
        plan = cls(rows, nothing, nothing, np.array([at_micros]), version)
        plan.version = np.array([version])
        return plan

    def assembled(self, dataset: str, messages: list[dict[str, Any]], records: list[FaultRecord]) -> Injected:
        """The rows in send order with what happens to them."""
        size = self.rows.num_rows
        place = np.flatnonzero(self.keep)
        source, parts, message = self.order[place], [self._spoiled_rows(dataset)], self.message
        for released_at, batch, told in self.released:
            source = np.concatenate([source, len(message) + np.arange(batch.num_rows)])
            place = np.concatenate([place, np.full(batch.num_rows, released_at)])
            message = np.concatenate([message, told])
            parts.append(batch)
        sequence = np.argsort(place, kind="stable")
        source, place = source[sequence], place[sequence]
        unmoved = len(source) == size and not self.released and bool((source == np.arange(size)).all())
        extra = np.zeros(len(message) - size, np.int64)
        return Injected(
            parts[0] if unmoved else pa.concat_batches(parts).take(pa.array(source)),
            self.micros[place],
            np.concatenate([self.repeat, extra + 1])[source],
            np.concatenate([self.damage, extra])[source],
            self.version[place],
            message[source],
            messages,
            records,
        )

    def _spoiled_rows(self, dataset: str) -> pa.RecordBatch:
        if not self.spoiled.any():
            return self.rows
        place = self.rows.schema.get_field_index(_PRICES.get(dataset, "exchange_timestamp_nanos"))
        column = self.rows.column(place)
        size = len(self.spoiled)
        bad = np.where(self.spoiled == 1, 0, -1) if dataset in _PRICES else np.full(size, IMPOSSIBLE_NANOS)
        column = pc.if_else(pa.array(self.spoiled > 0), pa.array(bad).cast(column.type), column)
        return self.rows.set_column(place, self.rows.schema.field(place), column)
