"""What is remembered of the numbers of channels, as plain sets and lists."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from k2_dagster.ingest.kernel import DUPLICATE, HORIZON, IN_ORDER, NEVER


@dataclass
class Remembered:
    """Of one symbol, at most `most` numbers that landed behind the newest, or aside."""

    most: int
    newest: int = NEVER
    floor: int = NEVER
    numbers: set[int] = field(default_factory=set)


@dataclass
class Channels:
    """Of all keys of a topic, and of each partition the `most_recent` numbers that landed in order, oldest first."""

    most: int
    most_recent: int
    keys: dict[Any, Remembered] = field(default_factory=dict)
    recent: dict[int, deque[tuple[Any, int]]] = field(default_factory=dict)

    def judge(self, partition: int, key: Any, number: int, *, is_aside: bool) -> int:
        """The verdict on a number that nothing else refuses."""
        mine = self.keys.setdefault(key, Remembered(self.most))
        recent = self.recent.setdefault(partition, deque(maxlen=self.most_recent))
        if number == mine.newest or number in mine.numbers or (key, number) in recent:
            return DUPLICATE
        if number <= mine.floor:
            return HORIZON
        if number < mine.newest or is_aside:
            mine.numbers.add(number)
            if len(mine.numbers) > mine.most:
                mine.floor = min(mine.numbers)
                mine.numbers.remove(mine.floor)
        else:
            recent.append((key, number))
        mine.newest = max(mine.newest, number)
        return IN_ORDER
