"""Which numbers the rows of a table claim, by rules of the proofs' own."""

from collections.abc import Iterable
from typing import Any

from k2_dagster.schemas.profiles import Domain
from proofs.common import Lake
from proofs.oracle import Row

# Of a numbering so many holes are remembered at least, and each has a number that is missing.
REMEMBERED_HOLES = 256


class Claims:
    """The numbers that landed rows claim, to judge a "duplicate" by: a row of a range claims every number in it."""

    def __init__(self, lake: Lake, exchange: str, dataset: str, rows: Iterable[Row]) -> None:
        self._profile = lake.profiles.exchange(exchange)
        self._dataset = dataset
        self._claims: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
        for row in rows:
            identity, first, last = self._claim(row)
            self._claims.setdefault(identity, []).append((first, last))

    def holds(self, row: Row) -> bool:
        """Whether a landed row claims this row's last number."""
        identity, _, last = self._claim(row)
        return any(low <= last <= high for low, high in self._claims.get(identity, []))

    def may_be_forgotten(self, row: Row) -> bool:
        """Whether the row's number may be forgotten: a landed one is far ahead, or many are missing."""
        identity, _, last = self._claim(row)
        claimed = self._claims.get(identity, [])
        top = max((high for _, high in claimed), default=0)
        missing = top - sum(high - low + 1 for low, high in claimed)
        return last < top and (top >= last + REMEMBERED_HOLES or missing >= REMEMBERED_HOLES)

    def identity(self, row: Row) -> tuple[Any, ...]:
        """What tells the message from every other one."""
        identity, _, last = self._claim(row)
        return *identity, last

    def _claim(self, row: Row) -> tuple[tuple[Any, ...], int, int]:
        stream = self._profile.stream(self._dataset, str(row["stream"]))
        if stream is None or not stream.domain.judged_by_ingest:
            number = row["publisher_sequence"] or 0
            return ("publisher", row["publisher_session"], row["symbol"]), number, number
        dense = stream.domain is Domain.DENSE
        identity = tuple(row[name] for name in ("stream", "kind", "session", "symbol"))
        return identity, row["sequence"] if dense else row["previous_sequence"] + 1, row["sequence"]
