"""The sequence judge's inner loop, compiled: one pass over the rows of a batch with carried state (DESIGN D3, D4).

It is a pure function of (state, rows): any split of a topic into batches gives the same verdicts and events. Rows are
in offset order within each partition. A row covers the numbers previous+1 .. sequence of its key (in the `dense`
domain previous is sequence-1). All state lives in arrays that the caller owns; `tracker.py` makes and keeps them.

Holes of a key form a linked list, newest first. Holes that wait for their grace to end also stand in a queue per
partition, in the order of their opening, so that looking for overdue ones costs nothing.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

# What a row may be to the judge.
UNREADABLE = 0  # no numbers: it may explain a hole of its symbol
GOOD = 1
REFUSED = 2  # has numbers but goes to quarantine: claims nothing, leaves a hole of its own
SKIPPED = 3  # takes no part in this numbering; it still moves record time

# Verdicts on GOOD rows.
IN_ORDER = 0
LATE = 1  # fills an open hole
DUPLICATE = 2
HORIZON = 3  # its numbers are older than what is remembered

# Causes of a hole.
UNKNOWN = 0
QUARANTINED = 1

# Events.
REPORT = 0
FILL = 1

NEVER = -(2**62)
NONE = -1
# Open holes remembered per key. A key with more has lost its feed; its older holes are beyond the horizon.
MAX_HOLES_PER_KEY = 256
# Most entries of the free stack that one row takes: it opens a hole, or splits the one that holds all its numbers.
HOLES_PER_ROW = 1

_I64 = npt.NDArray[np.int64]
_I32 = npt.NDArray[np.int32]
_I8 = npt.NDArray[np.int8]


class Rows(NamedTuple):
    """The batch, one entry per message. `key` and `symbol` index the state arrays (-1: none)."""

    key: _I32
    sequence: _I64
    previous: _I64
    flag: _I8
    symbol: _I32
    partition: _I32
    offset: _I64
    time_ms: _I64


class Keys(NamedTuple):
    """One entry per numbered sequence. `sparse`: numbers jump (linked domain), so a hole's size says nothing."""

    last: _I64
    messages: _I64
    floor: _I64
    bad_seen: _I64
    head: _I64
    holes: _I64
    waiting: _I64
    sparse: _I8


class Holes(NamedTuple):
    """Missing numbers first..last of a key; `free` is a stack of unused entries, free[0] its height."""

    key: _I64
    first: _I64
    last: _I64
    opened_offset: _I64
    opened_count: _I64
    opened_ms: _I64
    partition: _I64
    cause: _I64
    reported: _I64
    origin: _I64
    next: _I64
    free: _I64


class Queue(NamedTuple):
    """Holes that wait for their grace, per partition, oldest first; used[0] counts the entries."""

    key: _I64
    opened_offset: _I64
    opened_ms: _I64
    next: _I64
    head: _I64
    tail: _I64
    used: _I64


class Events(NamedTuple):
    """What happened, in row order; used[0] counts the entries. `origin` is the first number of the reported gap."""

    row: _I64
    kind: _I64
    key: _I64
    first: _I64
    last: _I64
    origin: _I64
    opened_offset: _I64
    used: _I64


@numba.njit(cache=True)
def _emit(events, row, kind, holes, hole, first, last):  # type: ignore[no-untyped-def]
    at = events.used[0]
    events.row[at] = row
    events.kind[at] = kind
    events.key[at] = holes.key[hole]
    events.first[at] = first
    events.last[at] = last
    events.origin[at] = holes.origin[hole]
    events.opened_offset[at] = holes.opened_offset[hole]
    events.used[0] = at + 1


@numba.njit(cache=True)
def _report(events, row, keys, holes, hole):  # type: ignore[no-untyped-def]
    holes.reported[hole] = 1
    holes.origin[hole] = holes.first[hole]
    keys.waiting[holes.key[hole]] -= 1
    _emit(events, row, REPORT, holes, hole, holes.first[hole], holes.last[hole])


@numba.njit(cache=True)
def _unlink(keys, holes, hole, before):  # type: ignore[no-untyped-def]
    key = holes.key[hole]
    if before == NONE:
        keys.head[key] = holes.next[hole]
    else:
        holes.next[before] = holes.next[hole]
    if holes.reported[hole] == 0:
        keys.waiting[key] -= 1
    keys.holes[key] -= 1
    holes.key[hole] = NONE
    holes.free[0] += 1
    holes.free[holes.free[0]] = hole


@numba.njit(cache=True)
def _drop_oldest(events, row, keys, holes, key):  # type: ignore[no-untyped-def]
    """Forget the lowest hole of a key. One that still waits for its grace is reported now, or nobody ever knew."""
    before, at = NONE, keys.head[key]
    while holes.next[at] != NONE:
        before, at = at, holes.next[at]
    if holes.reported[at] == 0:
        _report(events, row, keys, holes, at)
    keys.floor[key] = max(keys.floor[key], holes.last[at])
    _unlink(keys, holes, at, before)


@numba.njit(cache=True)
def _take(keys, holes, key):  # type: ignore[no-untyped-def]
    hole = holes.free[holes.free[0]]
    holes.free[0] -= 1
    holes.key[hole] = key
    keys.holes[key] += 1
    return hole


@numba.njit(cache=True)
def _enqueue(queue, partition, key, opened_offset, opened_ms):  # type: ignore[no-untyped-def]
    at = queue.used[0]
    queue.used[0] = at + 1
    queue.key[at] = key
    queue.opened_offset[at] = opened_offset
    queue.opened_ms[at] = opened_ms
    queue.next[at] = NONE
    if queue.head[partition] == NONE:
        queue.head[partition] = at
    else:
        queue.next[queue.tail[partition]] = at
    queue.tail[partition] = at


@numba.njit(cache=True)
def _open(rows, row, now, keys, holes, queue, events, symbol_bad):  # type: ignore[no-untyped-def]
    """A hole before a good row, or in place of a refused one."""
    key, refused = rows.key[row], rows.flag[row] == REFUSED
    if keys.holes[key] >= MAX_HOLES_PER_KEY:
        _drop_oldest(events, row, keys, holes, key)
    hole = _take(keys, holes, key)
    # before the first number that is seen, any may still come: not one of them has landed
    unseen = keys.last[key] == NEVER
    first = 0 if unseen else keys.last[key] + 1
    last = rows.sequence[row] if refused else rows.previous[row]
    size = 1 if keys.sparse[key] else last - first + 1
    explained = refused or unseen or size <= symbol_bad[rows.symbol[row]] - keys.bad_seen[key]
    holes.first[hole] = first
    holes.last[hole] = last
    holes.opened_offset[hole] = rows.offset[row]
    holes.opened_count[hole] = keys.messages[key]
    holes.opened_ms[hole] = now
    holes.partition[hole] = rows.partition[row]
    holes.cause[hole] = QUARANTINED if explained else UNKNOWN
    # a hole that quarantine or the beginning explains is outside the gap levels: never reported
    holes.reported[hole] = 1 if explained else 0
    holes.origin[hole] = first
    holes.next[hole] = keys.head[key]
    keys.head[key] = hole
    if not explained:
        keys.waiting[key] += 1
        _enqueue(queue, rows.partition[row], key, rows.offset[row], now)


@numba.njit(cache=True)
def _split(events, row, keys, holes, hole, before, low, high):  # type: ignore[no-untyped-def]
    """Take low..high out of the middle of a hole: the numbers above become a hole of their own, listed before it."""
    key = holes.key[hole]
    if keys.holes[key] >= MAX_HOLES_PER_KEY:
        if holes.reported[hole] == 0:
            _report(events, row, keys, holes, hole)
            _emit(events, row, FILL, holes, hole, low, high)
        keys.floor[key] = max(keys.floor[key], low - 1)
        holes.first[hole] = high + 1
        return
    piece = _take(keys, holes, key)
    holes.first[piece] = high + 1
    holes.last[piece] = holes.last[hole]
    holes.opened_offset[piece] = holes.opened_offset[hole]
    holes.opened_count[piece] = holes.opened_count[hole]
    holes.opened_ms[piece] = holes.opened_ms[hole]
    holes.partition[piece] = holes.partition[hole]
    holes.cause[piece] = holes.cause[hole]
    holes.reported[piece] = holes.reported[hole]
    holes.origin[piece] = holes.origin[hole]
    holes.next[piece] = hole
    holes.last[hole] = low - 1
    if before == NONE:
        keys.head[key] = piece
    else:
        holes.next[before] = piece
    if holes.reported[hole] == 0:
        keys.waiting[key] += 1


@numba.njit(cache=True)
def _fill(rows, row, keys, holes, events):  # type: ignore[no-untyped-def]
    """Take the row's numbers out of the key's holes. Returns the verdict on the row."""
    key, low, high = rows.key[row], rows.previous[row] + 1, rows.sequence[row]
    verdict = HORIZON if high <= keys.floor[key] else DUPLICATE
    before, hole = NONE, keys.head[key]
    while hole != NONE:
        following, first, last = holes.next[hole], holes.first[hole], holes.last[hole]
        if first > high or last < low:
            before, hole = hole, following
            continue
        verdict = LATE
        if holes.reported[hole] == 1 and holes.cause[hole] == UNKNOWN:
            _emit(events, row, FILL, holes, hole, max(first, low), min(last, high))
        if low <= first and high >= last:
            _unlink(keys, holes, hole, before)
            hole = following
            continue
        if low > first and high < last:
            _split(events, row, keys, holes, hole, before, low, high)
        elif low > first:
            holes.last[hole] = low - 1
        else:
            holes.first[hole] = high + 1
        before, hole = hole, following
    return verdict


@numba.njit(cache=True)
def _report_counted(row, key, keys, holes, events, grace_messages):  # type: ignore[no-untyped-def]
    hole = keys.head[key]
    while hole != NONE:
        if holes.reported[hole] == 0 and keys.messages[key] - holes.opened_count[hole] >= grace_messages:
            _report(events, row, keys, holes, hole)
        hole = holes.next[hole]


@numba.njit(cache=True)
def _report_overdue(row, partition, now, keys, holes, queue, events, grace_ms):  # type: ignore[no-untyped-def]
    at = queue.head[partition]
    while at != NONE and now >= queue.opened_ms[at] + grace_ms:
        hole = keys.head[queue.key[at]]
        while hole != NONE:
            if holes.reported[hole] == 0 and holes.opened_offset[hole] == queue.opened_offset[at]:
                _report(events, row, keys, holes, hole)
            hole = holes.next[hole]
        at = queue.next[at]
    queue.head[partition] = at


@numba.njit(cache=True)
def _judge_row(rows, row, now, keys, holes, queue, events, symbol_bad):  # type: ignore[no-untyped-def]
    key, flag = rows.key[row], rows.flag[row]
    last, sequence, previous = keys.last[key], rows.sequence[row], rows.previous[row]
    if flag == REFUSED:
        if last != NEVER and previous == last and sequence > last:
            keys.messages[key] += 1
            _open(rows, row, now, keys, holes, queue, events, symbol_bad)
            keys.last[key] = sequence
        elif sequence > last:
            symbol_bad[rows.symbol[row]] += 1
        return IN_ORDER
    keys.messages[key] += 1
    if sequence <= last:
        return _fill(rows, row, keys, holes, events)
    if previous > last and previous >= 0:
        _open(rows, row, now, keys, holes, queue, events, symbol_bad)
    keys.last[key] = sequence
    keys.bad_seen[key] = symbol_bad[rows.symbol[row]]
    return IN_ORDER


@numba.njit(cache=True, nogil=True)
def judge(  # type: ignore[no-untyped-def]
    rows, first_row, keys, holes, queue, events, symbol_bad, partition_time_ms, grace_messages, grace_ms, verdicts
):
    """Judge the rows from `first_row` on: fills `verdicts` (int8) and `events`, and moves the state on.

    Returns the row to go on from with more room for holes, or the number of rows.
    """
    # Rows in order, nearly all, are judged on these names alone: a call that takes the tuples counts a reference to
    # each of their arrays, which costs more than all the rest.
    row_key, row_flag, row_symbol, row_partition = rows.key, rows.flag, rows.symbol, rows.partition
    row_sequence, row_previous, row_time_ms = rows.sequence, rows.previous, rows.time_ms
    key_last, key_messages, key_bad_seen, key_waiting = keys.last, keys.messages, keys.bad_seen, keys.waiting
    queue_head, queue_opened_ms = queue.head, queue.opened_ms
    free = holes.free
    for row in range(first_row, len(row_key)):
        if free[0] < HOLES_PER_ROW:
            return row
        partition, flag = row_partition[row], row_flag[row]
        now = max(partition_time_ms[partition], row_time_ms[row])
        partition_time_ms[partition] = now
        verdicts[row] = IN_ORDER
        if flag == UNREADABLE:
            if row_symbol[row] >= 0:
                symbol_bad[row_symbol[row]] += 1
        elif flag != SKIPPED:
            key, sequence = row_key[row], row_sequence[row]
            last = key_last[key]
            if flag == GOOD and sequence > last and row_previous[row] <= last:
                key_messages[key] += 1
                key_last[key] = sequence
                key_bad_seen[key] = symbol_bad[row_symbol[row]]
            else:
                verdicts[row] = _judge_row(rows, row, now, keys, holes, queue, events, symbol_bad)
            if key_waiting[key] > 0:
                _report_counted(row, key, keys, holes, events, grace_messages)
        at = queue_head[partition]
        if at != NONE and now >= queue_opened_ms[at] + grace_ms:
            _report_overdue(row, partition, now, keys, holes, queue, events, grace_ms)
    return len(row_key)
