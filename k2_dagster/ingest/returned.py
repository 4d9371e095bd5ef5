"""Reprocessed messages that have no number: each is known by the position that it was first refused at.

A republished message carries that position in a header. Without it, a quote of a stream that numbers nothing would land
again each time that somebody reprocesses it. Pure: the state is what has landed so far, per partition.
"""

import bisect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from k2_dagster.ingest import kernel
from k2_dagster.state.frames import framed, unframed

# Stretches of neighbouring offsets remembered per partition and incarnation of the topic, 32 bytes each. Beyond it the
# lowest is forgotten, and what was refused at or below it is beyond the horizon.
MAX_STRETCHES = 16_384

_POSITION = re.compile(r"(\d{1,9})/(\d{1,9})/(\d{1,18})")
# Partition that the copy is read from, and epoch and partition of the refused message.
Place = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Original:
    """Where a message was first refused."""

    topic_epoch: int
    partition: int
    offset: int

    @classmethod
    def parse(cls, header: bytes | None) -> "Original | None":
        """From a header's value, `epoch/partition/offset`; None for anything else."""
        found = _POSITION.fullmatch((header or b"").decode(errors="replace"))
        return None if found is None else cls(*(int(part) for part in found.groups()))

    def header(self) -> bytes:
        """As a header's value."""
        return f"{self.topic_epoch}/{self.partition}/{self.offset}".encode()


@dataclass
class _Stretches:
    """Offsets first..last that have landed, in rising order and never touching."""

    firsts: list[int] = field(default_factory=list)
    lasts: list[int] = field(default_factory=list)
    floor: int = -1


class Returned:
    """What has been reprocessed and has landed."""

    def __init__(self) -> None:
        self._places: dict[Place, _Stretches] = {}

    def claim(self, partition: int, original: Original) -> int:
        """Verdict on a copy that is read from `partition`; a first one is noted as landed."""
        place = (partition, original.topic_epoch, original.partition)
        known = self._places.setdefault(place, _Stretches())
        offset = original.offset
        if offset <= known.floor:
            return kernel.HORIZON
        at = bisect.bisect_right(known.firsts, offset) - 1
        if at >= 0 and offset <= known.lasts[at]:
            return kernel.DUPLICATE
        _add(known, at, offset)
        if len(known.firsts) > MAX_STRETCHES:
            known.floor = known.lasts.pop(0)
            del known.firsts[0]
        return kernel.IN_ORDER

    def dump(self) -> bytes:
        """The state as bytes. Equal states give equal bytes."""
        rows = [
            (*place, known.floor, first, last)
            for place, known in sorted(self._places.items())
            for first, last in zip(known.firsts, known.lasts, strict=True)
        ]
        columns = list(zip(*rows, strict=True)) or [()] * len(_COLUMNS)
        table = pa.table({name: pa.array(values, pa.int64()) for name, values in zip(_COLUMNS, columns, strict=True)})
        return framed("returned", table)

    @classmethod
    def load(cls, data: bytes) -> "Returned":
        """The state that `dump` wrote."""
        out = cls()
        table = dict(unframed(data))["returned"]
        for partition, epoch, original, floor, first, last in zip(*table.to_pydict().values(), strict=True):
            known = out._places.setdefault((partition, epoch, original), _Stretches(floor=floor))
            known.firsts.append(first)
            known.lasts.append(last)
        return out


_COLUMNS = ("partition", "topic_epoch", "original_partition", "floor", "first", "last")


def originals(headers: Mapping[int, list[tuple[str, bytes | None]]], name: str) -> dict[int, Original]:
    """Row -> where its message was first refused, for the messages that say so."""
    parsed = ((row, Original.parse(dict(found).get(name))) for row, found in headers.items())
    return {row: original for row, original in parsed if original is not None}


def _add(known: _Stretches, at: int, offset: int) -> None:
    """`at` is the stretch below the offset (-1: none)."""
    below = at >= 0 and known.lasts[at] == offset - 1
    above = at + 1 < len(known.firsts) and known.firsts[at + 1] == offset + 1
    if below and above:
        known.lasts[at] = known.lasts.pop(at + 1)
        del known.firsts[at + 1]
    elif below:
        known.lasts[at] = offset
    elif above:
        known.firsts[at + 1] = offset
    else:
        known.firsts.insert(at + 1, offset)
        known.lasts.insert(at + 1, offset)
