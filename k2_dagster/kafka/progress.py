"""Where a reader is in each partition, and when a silence is a stall. Decisions only: no clock, no Kafka.

librdkafka can stop delivering a partition without a word (after a leader's change), and an outage of the brokers
surfaces no error to a consumer. So a reader that hears nothing for a while asks the brokers where the partition ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from k2_dagster.errors import ReaderStalled


@dataclass(frozen=True)
class Patience:
    """How long silence may last, in seconds spent waiting for messages (time between reads does not count)."""

    # One small request per this time while a topic is idle.
    check_seconds: float = 10.0
    # Leader elections and reconnects take seconds; a partition that is silent for this long in spite of messages is
    # stuck. Twice: once to make a new client, once to give up.
    stall_seconds: float = 30.0
    # A broker's restart takes some seconds, a rolling one a minute; then the caller should hear of it.
    outage_seconds: float = 60.0


class Remedy(Enum):
    """What to do about a silence."""

    WAIT = "wait"
    NEW_CLIENT = "new client"


class Progress:
    """Positions of the assigned partitions and the time that each has been silent."""

    def __init__(self, topic: str, starts: Mapping[int, int], patience: Patience) -> None:
        self._topic = topic
        self._patience = patience
        self.positions = dict(starts)
        self._at_end: set[int] = set()
        self._silent_seconds = dict.fromkeys(starts, 0.0)
        self._checked_seconds = dict.fromkeys(starts, 0.0)
        self._renewed: set[int] = set()

    @property
    def everywhere_at_end(self) -> bool:
        """Whether every partition was read to its end when last heard of."""
        return len(self._at_end) == len(self.positions)

    def delivered(self, partition: int, next_offset: int) -> None:
        """A message before `next_offset` arrived."""
        self._heard(partition, next_offset)
        self._at_end.discard(partition)

    def reached_end(self, partition: int, offset: int) -> None:
        """The client says that it read up to the partition's end. Raises nothing; positions never go back."""
        if partition in self.positions:
            self._heard(partition, max(offset, self.positions[partition]))
            self._at_end.add(partition)

    def waited(self, seconds: float) -> None:
        """This much time was spent on waiting for messages of all partitions."""
        for partition in self._silent_seconds:
            self._silent_seconds[partition] += seconds

    @property
    def should_check(self) -> bool:
        """Whether some partition has been silent for long enough to ask the brokers about it."""
        return any(
            silent - self._checked_seconds[partition] >= self._patience.check_seconds
            for partition, silent in self._silent_seconds.items()
        )

    @property
    def out_of_patience(self) -> bool:
        """Whether everything has been silent for longer than an outage may go unreported."""
        return min(self._silent_seconds.values(), default=0.0) >= self._patience.outage_seconds

    def could_not_check(self) -> None:
        """The brokers did not answer: ask again after the check interval."""
        self._checked_seconds = dict(self._silent_seconds)

    def checked(self, ends: Mapping[int, int]) -> Remedy:
        """Judge the silence by the partitions' ends. Raises ReaderStalled when a new client was of no help before."""
        self._checked_seconds = dict(self._silent_seconds)
        behind = [partition for partition, position in self.positions.items() if ends[partition] > position]
        for partition in self.positions.keys() - set(behind):
            self._heard(partition, self.positions[partition])
        stuck = [p for p in behind if self._silent_seconds[p] >= self._patience.stall_seconds]
        for partition in stuck:
            if partition in self._renewed:
                raise self._stalled(partition, ends[partition])
        return Remedy.NEW_CLIENT if stuck else Remedy.WAIT

    def renewed(self) -> bool:
        """A new client starts at the positions: give every partition time again, those that are silent for the last
        time. Returns whether that is the first time for all of them."""
        first = not self._renewed
        self._renewed |= self.positions.keys()
        for partition in self.positions:
            self._silent_seconds[partition] = self._checked_seconds[partition] = 0.0
        self._at_end.clear()
        return first

    def _heard(self, partition: int, position: int) -> None:
        self.positions[partition] = position
        self._silent_seconds[partition] = self._checked_seconds[partition] = 0.0
        self._renewed.discard(partition)

    def _stalled(self, partition: int, end: int) -> ReaderStalled:
        position = self.positions[partition]
        return ReaderStalled(
            f"partition {partition} of {self._topic} delivers nothing from offset {position} though it ends at {end}, "
            "also with a new client",
            advice="`k2 doctor` tries the brokers; look at the partition's leader",
            topic=self._topic,
            partition=partition,
            offset=position,
        )
