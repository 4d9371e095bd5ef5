"""Which quarantined messages are meant, and reading them without having all of their bytes in memory.

One snapshot is pinned; its files are planned once, and of each only what a question needs is read.
"""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.conversions import from_bytes
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThanOrEqual,
    LessThan,
    LessThanOrEqual,
)
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import FileScanTask
from pyiceberg.types import LongType, PrimitiveType, TimestamptzType

from k2_dagster.lake.catalog import load_table, translated_errors
from k2_dagster.schemas.datasets import table_name
from k2_dagster.schemas.quarantine import QUARANTINE

Int64s = npt.NDArray[np.int64]
_POSITION = ("topic", "topic_epoch", "kafka_partition", "kafka_offset")
_TIME, _OFFSET = QUARANTINE["kafka_timestamp"].id, QUARANTINE["kafka_offset"].id


@dataclass(frozen=True, slots=True)
class Selection:
    """Which quarantined messages. None means "any". Record times from `since` to before `until`; offsets from
    `first_offset` to `last_offset`, both included."""

    exchange: str | None = None
    dataset: str | None = None
    reason: str | None = None
    topic: str | None = None
    partition: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    first_offset: int | None = None
    last_offset: int | None = None

    def expression(self) -> BooleanExpression:
        """As a filter of the quarantine table."""
        equal = {
            "exchange": self.exchange,
            "dataset": self.dataset,
            "reason": self.reason,
            "topic": self.topic,
            "kafka_partition": self.partition,
        }
        parts: list[BooleanExpression] = [
            EqualTo(term=name, value=value) for name, value in equal.items() if value is not None
        ]
        if self.since is not None:
            parts.append(GreaterThanOrEqual(term="kafka_timestamp", value=self.since.isoformat()))
        if self.until is not None:
            parts.append(LessThan(term="kafka_timestamp", value=self.until.isoformat()))
        if self.first_offset is not None:
            parts.append(GreaterThanOrEqual(term="kafka_offset", value=self.first_offset))
        if self.last_offset is not None:
            parts.append(LessThanOrEqual(term="kafka_offset", value=self.last_offset))
        return _all(parts)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One partition of one incarnation of a topic."""

    topic: str
    topic_epoch: int
    partition: int


class Quarantine:
    """The selected messages, as the quarantine table has them now. Raises NotInitialized, WarehouseUnavailable."""

    def __init__(self, catalog: Catalog, selection: Selection) -> None:
        self._table = load_table(catalog, table_name("quarantine"))
        self._filter = selection.expression()
        with translated_errors():
            self._tasks = list(self._table.scan(row_filter=self._filter).plan_files())

    def newest(self, columns: Sequence[str], limit: int) -> list[dict[str, Any]]:
        """The newest messages by Kafka's record time, newest first. Files that cannot have one of them are not read."""
        wanted = [*columns, *(one for one in ("kafka_timestamp", *_POSITION) if one not in columns)]
        best: list[tuple[Any, ...]] = []
        # tells two rows of one position apart: there should be none, but a listing is where one would be looked for
        counted = itertools.count()
        for task in sorted(self._tasks, key=_newest_time, reverse=True):
            if len(best) == limit and _newest_time(task) < _micros(best[0][0]):
                break
            for row in self._read([task], wanted, AlwaysTrue()):
                key = (row["kafka_timestamp"], *(row[name] for name in _POSITION))
                if len(best) < limit:
                    heapq.heappush(best, (*key, next(counted), row))
                elif key > best[0][:-2]:
                    heapq.heapreplace(best, (*key, next(counted), row))
        rows = [one[-1] for one in sorted(best, key=lambda one: one[:-2], reverse=True)]
        return [{name: row[name] for name in columns} for row in rows]

    def whole(self) -> list[dict[str, Any]]:
        """Every selected message with all of its columns, by position: for a selection of a few."""
        rows = list(self._read(self._tasks, ("*",), AlwaysTrue()))
        return sorted(rows, key=lambda row: tuple(row[name] for name in _POSITION))

    def scan(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of every selected message, a file at a time."""
        for task in self._tasks:
            yield from self._batches([task], columns, AlwaysTrue())

    def at(self, place: Place, offsets: Int64s) -> list[dict[str, Any]]:
        """The messages at these rising offsets of one partition, whole and in their order."""
        first, last = int(offsets[0]), int(offsets[-1])
        tasks = [one for one in self._tasks if _may_have(one, first, last)]
        of_place: list[BooleanExpression] = [
            EqualTo(term="topic", value=place.topic),
            EqualTo(term="topic_epoch", value=place.topic_epoch),
            EqualTo(term="kafka_partition", value=place.partition),
            GreaterThanOrEqual(term="kafka_offset", value=first),
            LessThanOrEqual(term="kafka_offset", value=last),
        ]
        wanted = set(offsets.tolist())
        rows = [row for row in self._read(tasks, ("*",), _all(of_place)) if row["kafka_offset"] in wanted]
        return sorted(rows, key=lambda row: int(row["kafka_offset"]))

    def _read(
        self, tasks: Sequence[FileScanTask], columns: Sequence[str], also: BooleanExpression
    ) -> Iterator[dict[str, Any]]:
        for task in tasks:
            for batch in self._batches([task], columns, also):
                yield from batch.to_pylist()

    def _batches(
        self, tasks: Sequence[FileScanTask], columns: Sequence[str], also: BooleanExpression
    ) -> Iterator[pa.RecordBatch]:
        table = self._table
        schema = table.schema() if "*" in columns else table.schema().select(*columns)
        with translated_errors():
            yield from ArrowScan(table.metadata, table.io, schema, And(self._filter, also)).to_record_batches(tasks)


def _all(parts: Sequence[BooleanExpression]) -> BooleanExpression:
    out: BooleanExpression = AlwaysTrue()
    for one in parts:
        out = And(out, one)
    return out


def _newest_time(task: FileScanTask) -> int:
    """Upper bound of the file's record times in microseconds; a file that does not say may have the newest."""
    found = _bound(task.file.upper_bounds, _TIME, TimestamptzType())
    return 2**63 if found is None else found


def _may_have(task: FileScanTask, first: int, last: int) -> bool:
    low = _bound(task.file.lower_bounds, _OFFSET, LongType())
    high = _bound(task.file.upper_bounds, _OFFSET, LongType())
    return (low is None or low <= last) and (high is None or first <= high)


def _bound(bounds: Any, field_id: int, of_type: PrimitiveType) -> int | None:
    found = (bounds or {}).get(field_id)
    return None if found is None else int(from_bytes(of_type, found))


def _micros(when: datetime) -> int:
    return round(when.timestamp() * 1_000_000)
