"""What landed in the order of its channel, as far as it is remembered: the newest numbers of each partition, with keys.

A ring for each partition, so that memory and state do not grow with sessions, channels and symbols. What is overwritten
is by the count of what landed, so any split of a topic into batches remembers the same.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

# Messages per partition: 12 bytes each, 196 kB, and about a third of that in an attempt. Some seconds of the busiest
# channel spread over 8 partitions, and hours of most: a feed handler is back before that.
MAX_RECENT = 16_384
# In place of a key that is forgotten, or was never there.
NO_KEY = -1


class Recent:
    """The rings of one topic. Keys are indices, as whoever asks counts them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: dict[int, int] = {}
        self._keys: Int32s = np.zeros((0, most), np.int32)
        self._numbers: Int64s = np.zeros((0, most), np.int64)
        # How many have landed in all
        self._counts: Int64s = np.zeros(0, np.int64)

    def place_of(self, partition: int) -> int:
        """The ring of a partition, made at first sight."""
        found = self._places.get(partition)
        if found is None:
            found = self._places[partition] = len(self._places)
            self._keys = np.concatenate([self._keys, np.full((1, self._most), NO_KEY, np.int32)])
            self._numbers = np.concatenate([self._numbers, np.zeros((1, self._most), np.int64)])
            self._counts = np.append(self._counts, 0)
        return found

    @property
    def arrays(self) -> tuple[Int32s, Int64s, Int64s]:
        """Keys and numbers by place, and the counts: to be written to by the passes of `channel_numbers.py`."""
        return self._keys, self._numbers, self._counts

    def rekey(self, kept: Int64s, count: int) -> None:
        """Only these of `count` keys are left, and are counted anew. What is forgotten keeps its room: what is
        overwritten when must not depend on when it was forgotten."""
        renamed = np.full(count + 1, NO_KEY, np.int32)  # the last is NO_KEY's own
        renamed[kept] = np.arange(len(kept), dtype=np.int32)
        self._keys = renamed[self._keys]

    def table(self) -> pa.Table:
        """Everything, oldest first in each partition. Numbers as differences: they rise by little."""
        partitions, keys, numbers = [], [], []
        for partition, place in sorted(self._places.items()):
            order = self._order(place)
            partitions.append(np.full(len(order), partition, np.int64))
            keys.append(self._keys[place][order])
            numbers.append(np.diff(self._numbers[place][order], prepend=np.int64(0)))
        return pa.table(
            {
                "partition": np.concatenate([np.zeros(0, np.int64), *partitions]),
                "key": np.concatenate([np.zeros(0, np.int32), *keys]),
                "difference": np.concatenate([np.zeros(0, np.int64), *numbers]),
            }
        )

    @classmethod
    def of_table(cls, table: pa.Table, most: int) -> "Recent":
        """What `table` gave; the newest `most` of each partition."""
        out = cls(most)
        of_row, keys, differences = (table[name].to_numpy() for name in ("partition", "key", "difference"))
        for partition in dict.fromkeys(of_row.tolist()):
            mine = of_row == partition
            place = out.place_of(partition)
            numbers = np.cumsum(differences[mine])[-most:]
            out._keys[place, : len(numbers)] = keys[mine][-most:]
            out._numbers[place, : len(numbers)] = numbers
            out._counts[place] = len(numbers)
        return out

    def remembered(self) -> dict[int, list[tuple[int, int]]]:
        """Key and number of each partition's, oldest first; for tests."""
        return {
            partition: list(
                zip(*(held[place][self._order(place)].tolist() for held in (self._keys, self._numbers)), strict=True)
            )
            for partition, place in self._places.items()
        }

    def _order(self, place: int) -> Int64s:
        count = int(self._counts[place])
        return np.arange(max(0, count - self._most), count) % self._most
