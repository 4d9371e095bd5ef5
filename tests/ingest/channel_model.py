"""What is remembered of one symbol's numbers in a channel, as a plain set."""

from dataclasses import dataclass, field

from k2_dagster.ingest.kernel import DUPLICATE, HORIZON, IN_ORDER, NEVER


@dataclass
class Remembered:
    """At most `most` numbers that landed behind the newest, or aside."""

    most: int
    newest: int = NEVER
    floor: int = NEVER
    numbers: set[int] = field(default_factory=set)

    def judge(self, number: int, *, is_aside: bool) -> int:
        """The verdict on a number that nothing else refuses."""
        if number == self.newest or number in self.numbers:
            return DUPLICATE
        if number <= self.floor:
            return HORIZON
        if number < self.newest or is_aside:
            self.numbers.add(number)
            if len(self.numbers) > self.most:
                self.floor = min(self.numbers)
                self.numbers.remove(self.floor)
        self.newest = max(self.newest, number)
        return IN_ORDER
