"""The arrays that the sequence judge works on: a batch's rows, and the state that it carries."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]


class Rows(NamedTuple):
    """The batch, one entry per message. `key` and `symbol` index the state arrays (-1: none)."""

    key: Int32s
    sequence: Int64s
    previous: Int64s
    flag: Int8s
    symbol: Int32s
    partition: Int32s
    offset: Int64s
    time_ms: Int64s
    event_micros: Int64s


class Keys(NamedTuple):
    """One entry per numbered sequence. `sparse`: one message may cover many numbers (range and linked domains), so of
    a hole's size only "at least one message" is known.

    `holes` counts the unexplained ones, of which `waiting` wait for their grace, `explained` the others. Of the
    unreadable messages of the symbol, `used` explain holes of this key, and `unread` of the others were there at its
    last good row: those explain nothing that is missing after it. A message of this key whose number is doubted makes
    `used` one less, and so is one more that may explain a hole.

    What was received: numbers `first` to `last` in `messages`, from `first_micros` to `last_micros` by the venue's
    time of the good rows in order, of which `late` came late and `duplicates` again.

    `far` is the number that was doubted last, when the last number was `far_last`.
    """

    last: Int64s
    messages: Int64s
    floor: Int64s
    unread: Int64s
    used: Int64s
    symbol: Int64s
    sparse: Int64s
    first: Int64s
    first_micros: Int64s
    last_micros: Int64s
    late: Int64s
    duplicates: Int64s
    far: Int64s
    far_last: Int64s
    head: Int64s
    holes: Int64s
    explained: Int64s
    waiting: Int64s


class Holes(NamedTuple):
    """Missing numbers first..last of a key; `free` is a stack of unused entries, free[0] its height.

    `unread` is that of its key when it opened; it lies between messages of the venue's times `before_micros` and
    `after_micros`.
    """

    key: Int64s
    first: Int64s
    last: Int64s
    opened_offset: Int64s
    opened_count: Int64s
    opened_ms: Int64s
    partition: Int64s
    cause: Int64s
    reported: Int64s
    origin: Int64s
    unread: Int64s
    before_micros: Int64s
    after_micros: Int64s
    next: Int64s
    free: Int64s


class Queue(NamedTuple):
    """Holes that wait for their grace, per partition, oldest first; used[0] counts the entries."""

    key: Int64s
    opened_offset: Int64s
    opened_ms: Int64s
    next: Int64s
    head: Int64s
    tail: Int64s
    used: Int64s


class Events(NamedTuple):
    """What happened, in row order; used[0] counts the entries. `origin` is the first number of the reported gap."""

    row: Int64s
    kind: Int64s
    key: Int64s
    first: Int64s
    last: Int64s
    origin: Int64s
    opened_offset: Int64s
    before_micros: Int64s
    after_micros: Int64s
    used: Int64s


class Symbols(NamedTuple):
    """`bad` counts the unreadable messages of a symbol; `known` (0 or 1) says that a message with numbers named it."""

    bad: Int64s
    known: Int64s
    partition: Int64s


class Partitions(NamedTuple):
    """Record time of a partition, the end of the day that it is in, and its symbols with `bad` that are not known."""

    time_ms: Int64s
    day_end_ms: Int64s
    strangers: Int64s
