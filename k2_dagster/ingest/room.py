"""Arrays for the judge, with room to grow."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from k2_dagster.ingest import kernel

Int64s = npt.NDArray[np.int64]

HOLE_COLUMNS = (
    "key",
    "first",
    "last",
    "opened_offset",
    "opened_count",
    "opened_ms",
    "partition",
    "cause",
    "reported",
    "origin",
    "unread",
    "before_micros",
    "after_micros",
)
EVENT_COLUMNS = (
    *("row", "kind", "key", "first", "last", "origin", "opened_offset"),
    *("before_micros", "after_micros"),
)
# Rows that the arrays of keys and symbols grow by; each key is about 80 bytes.
_GROWTH = 1_024


def put(columns: dict[str, Int64s], at: int, values: Mapping[str, int]) -> None:
    """Set a row of columns, which grow as needed; what is not given is 0."""
    if at >= len(next(iter(columns.values()))):
        for name, column in columns.items():
            columns[name] = np.concatenate([column, np.zeros(_GROWTH, dtype=np.int64)])
    for name, column in columns.items():
        column[at] = values.get(name, 0)


def with_room(holes: kernel.Holes, room: int) -> kernel.Holes:
    """The same holes in arrays with `room` more places, all free."""
    count, height = len(holes.key), int(holes.free[0])
    arrays = {}
    for name in (*HOLE_COLUMNS, "next"):
        arrays[name] = np.full(count + room, kernel.NONE, dtype=np.int64)
        arrays[name][:count] = getattr(holes, name)
    new = np.arange(count + room - 1, count - 1, -1)
    free = np.concatenate([[height + room], holes.free[1 : height + 1], new, np.zeros(count, dtype=np.int64)])
    return kernel.Holes(**arrays, free=free)


def events_with(room: int) -> kernel.Events:
    """No events, and room for so many. What is not used is not touched, and costs nothing."""
    columns = {name: np.empty(room, dtype=np.int64) for name in EVENT_COLUMNS}
    return kernel.Events(**columns, used=np.zeros(1, dtype=np.int64))
