"""What the commits sensor remembers between its ticks. It spares looks and proves nothing: see `assets/mirror.py`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from k2_dagster.assets.partitions import Partition


@dataclass(frozen=True, slots=True)
class Cursor:
    """`read` is the last position read of each table; `waiting` is the first position of each partition that was not
    seen reported yet; `again` are partitions to check although nothing landed. `due_at` is when a partition may be
    looked at again, `looked_at` when something else was (epoch seconds)."""

    read: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[Partition, int] = field(default_factory=dict)
    due_at: Mapping[Partition, float] = field(default_factory=dict)
    again: Sequence[Partition] = ()
    looked_at: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, stored: str | None) -> "Cursor":
        """From what Dagster stored; nothing stored means from the first commit on."""
        if not stored:
            return cls()
        found = json.loads(stored)
        return cls(
            read={name: int(position) for name, position in found["read"].items()},
            waiting={_partition(key): int(position) for key, position in found["waiting"].items()},
            due_at={_partition(key): float(at) for key, at in found.get("due_at", {}).items()},
            again=[_partition(key) for key in found.get("again", ())],
            looked_at={name: float(at) for name, at in found.get("looked_at", {}).items()},
        )

    def dump(self) -> str:
        """As JSON."""
        found = {
            "read": self.read,
            "waiting": {"|".join(key): at for key, at in self.waiting.items()},
            "due_at": {"|".join(key): round(at, 3) for key, at in self.due_at.items()},
            "again": ["|".join(key) for key in self.again],
            "looked_at": self.looked_at,
        }
        return json.dumps(found)


def day_of(now: float) -> str:
    """The UTC day of a time (epoch seconds)."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def _partition(key: str) -> Partition:
    dataset, exchange, day = key.split("|")
    return dataset, exchange, day
