"""The sequence judge's inner loop, compiled: one pass over the rows of a batch with carried state (DESIGN D3, D4).

It is a pure function of (state, rows): any split of a topic into batches gives the same verdicts and events. Rows are
in offset order within each partition. A row covers the numbers previous+1 .. sequence of its key (in the `dense`
domain previous is sequence-1). All state lives in arrays that the caller owns; `numbering.py` makes and keeps them.

Numbers that are missing are holes, in a linked list per key, highest first. Those that wait for their grace also stand
in a queue per partition, in the order of their opening, so that looking for overdue ones costs nothing. Numbers of
refused messages are holes that need no explaining; they may lie ahead of the key's last number, and become part of its
past when the numbers before them are there.

A number that is further beyond the last one than a bound is doubted: it may be damage, and believed it would leave one
hole in which every later number is an old one. Its message is refused, until another number near it, with nothing in
order between the two, confirms that the numbering itself has jumped.

One module, because numba's cache does not see changes of another.
"""

import numba

from k2_dagster.ingest.kernel_types import Events, Holes, Int8s, Int64s, Keys, Partitions, Queue, Rows, Symbols

__all__ = ["Events", "Holes", "Int8s", "Int64s", "Keys", "Partitions", "Queue", "Rows", "Symbols", "judge"]

# What a row may be to the judge.
UNREADABLE = 0  # no numbers: it may explain a hole of its symbol
GOOD = 1
REFUSED = 2  # has numbers but goes to quarantine: claims nothing, leaves a hole of its own
SKIPPED = 3  # takes no part in this numbering; it still moves record time
# Back from quarantine: what has been refused before is no sign of where the numbering stands now
RETURNED = 4  # otherwise GOOD
RETURNED_REFUSED = 5  # otherwise REFUSED

# Verdicts on GOOD rows. REFUSED ones are DUPLICATE when their number has come before, else IN_ORDER.
IN_ORDER = 0
LATE = 1  # fills an open hole
DUPLICATE = 2
HORIZON = 3  # its numbers are older than what is remembered
JUMP = 4  # its number is far beyond the last one, and nothing confirms it

# Causes of a hole.
UNKNOWN = 0
QUARANTINED = 1  # refused, or before the first number that was seen: no gap was ever reported of it
QUARANTINED_GAP = 2  # reported as a gap first, and found in quarantine then
# Origin of a hole whose numbers no refused message has claimed: from before the first number, or explained by count.
UNCLAIMED = 0

# Events.
REPORT = 0
FILL = 1
EXPLAIN = 2  # numbers of a reported gap are in quarantine
FILL_EXPLAINED = 3  # and have come after all
JUMPED = 4  # a verdict JUMP: `first` is the last number then, `last` the one that is doubted; no hole is concerned

NEVER = -(2**62)
NONE = -1
DAY_MS = 86_400_000
# Unexplained holes remembered per key. A key with more has lost its feed; its older holes are beyond the horizon.
MAX_HOLES_PER_KEY = 256
# Stretches of refused numbers remembered per key, so that good copies of them still land: 1.5 MB when all are used.
# Beyond it, refused numbers count as missing.
MAX_EXPLAINED_PER_KEY = 16_384
# Of them, those ahead of the key's last number. Beyond it, a refused message explains a hole of its symbol by count.
MAX_AHEAD_PER_KEY = 64
# Most entries of the free stack that one row takes: a gap with refused stretches in it, a split, two cut ends, and the
# number that was doubted before it.
HOLES_PER_ROW = MAX_AHEAD_PER_KEY + 8
# Symbols that only unreadable messages have named, remembered per partition until the day ends: keys may be garbage.
MAX_STRANGERS = 1_024


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
    events.before_micros[at] = holes.before_micros[hole]
    events.after_micros[at] = holes.after_micros[hole]
    events.used[0] = at + 1


@numba.njit(cache=True)
def _count(keys, holes, hole, change):  # type: ignore[no-untyped-def]
    key = holes.key[hole]
    if holes.cause[hole] == UNKNOWN:
        keys.holes[key] += change
        if holes.reported[hole] == 0:
            keys.waiting[key] += change
    else:
        keys.explained[key] += change


@numba.njit(cache=True)
def _unlink(keys, holes, hole, before):  # type: ignore[no-untyped-def]
    key = holes.key[hole]
    if before == NONE:
        keys.head[key] = holes.next[hole]
    else:
        holes.next[before] = holes.next[hole]
    _count(keys, holes, hole, -1)
    holes.key[hole] = NONE
    holes.free[0] += 1
    holes.free[holes.free[0]] = hole


@numba.njit(cache=True)
def _link(keys, holes, hole):  # type: ignore[no-untyped-def]
    """Into its key's list, by its numbers."""
    key = holes.key[hole]
    before, at = NONE, keys.head[key]
    while at != NONE and holes.first[at] > holes.first[hole]:
        before, at = at, holes.next[at]
    holes.next[hole] = at
    if before == NONE:
        keys.head[key] = hole
    else:
        holes.next[before] = hole
    _count(keys, holes, hole, 1)


@numba.njit(cache=True)
def _made(rows, row, now, keys, holes, first, last, cause):  # type: ignore[no-untyped-def]
    """A new hole of the row's key, in its list."""
    key = rows.key[row]
    hole = holes.free[holes.free[0]]
    holes.free[0] -= 1
    holes.key[hole] = key
    holes.first[hole] = first
    holes.last[hole] = last
    holes.opened_offset[hole] = rows.offset[row]
    holes.opened_count[hole] = keys.messages[key]
    holes.opened_ms[hole] = now
    holes.partition[hole] = rows.partition[row]
    holes.cause[hole] = cause
    # what quarantine or the beginning explains is outside the gap levels: never reported
    holes.reported[hole] = 0 if cause == UNKNOWN else 1
    holes.origin[hole] = first
    holes.unread[hole] = keys.unread[key]
    holes.before_micros[hole] = keys.last_micros[key]
    holes.after_micros[hole] = rows.event_micros[row]
    _link(keys, holes, hole)
    return hole


@numba.njit(cache=True)
def _piece(keys, holes, hole, first, last):  # type: ignore[no-untyped-def]
    """A part of a hole as a hole of its own, in the list; the caller shortens the old one first."""
    piece = holes.free[holes.free[0]]
    holes.free[0] -= 1
    holes.key[piece] = holes.key[hole]
    holes.first[piece] = first
    holes.last[piece] = last
    holes.opened_offset[piece] = holes.opened_offset[hole]
    holes.opened_count[piece] = holes.opened_count[hole]
    holes.opened_ms[piece] = holes.opened_ms[hole]
    holes.partition[piece] = holes.partition[hole]
    holes.cause[piece] = holes.cause[hole]
    holes.reported[piece] = holes.reported[hole]
    holes.origin[piece] = holes.origin[hole]
    holes.unread[piece] = holes.unread[hole]
    holes.before_micros[piece] = holes.before_micros[hole]
    holes.after_micros[piece] = holes.after_micros[hole]
    _link(keys, holes, piece)


@numba.njit(cache=True)
def _size(keys, holes, hole):  # type: ignore[no-untyped-def]
    """Messages missing: where one may cover many numbers, at least one."""
    return 1 if keys.sparse[holes.key[hole]] else holes.last[hole] - holes.first[hole] + 1


@numba.njit(cache=True)
def _relabel(keys, holes, hole, cause):  # type: ignore[no-untyped-def]
    _count(keys, holes, hole, -1)
    holes.cause[hole] = cause
    holes.reported[hole] = 1
    _count(keys, holes, hole, 1)


@numba.njit(cache=True)
def _unread(keys, key, bad):  # type: ignore[no-untyped-def]
    """Unreadable messages of the key's symbol that have not explained a hole yet."""
    return bad[keys.symbol[key]] - keys.used[key]


@numba.njit(cache=True)
def _tell(events, row, keys, holes, hole, bad):  # type: ignore[no-untyped-def]
    """The grace of a hole is over: it is a gap, unless unreadable messages of its symbol explain it by their count."""
    key, size = holes.key[hole], _size(keys, holes, hole)
    if size <= _unread(keys, key, bad) - holes.unread[hole] and keys.explained[key] < MAX_EXPLAINED_PER_KEY:
        keys.used[key] += size
        _relabel(keys, holes, hole, QUARANTINED)
        holes.origin[hole] = UNCLAIMED
        return
    keys.waiting[key] -= 1
    holes.reported[hole] = 1
    holes.origin[hole] = holes.first[hole]
    _emit(events, row, REPORT, holes, hole, holes.first[hole], holes.last[hole])


@numba.njit(cache=True)
def _drop_lowest(events, row, keys, holes, key, bad):  # type: ignore[no-untyped-def]
    """Forget the lowest unexplained hole of a key. One that still waits is told now, or nobody ever knew."""
    before, at = NONE, keys.head[key]
    lowest_before, lowest = NONE, NONE
    while at != NONE:
        if holes.cause[at] == UNKNOWN:
            lowest_before, lowest = before, at
        before, at = at, holes.next[at]
    if holes.reported[lowest] == 0:
        _tell(events, row, keys, holes, lowest, bad)
        if holes.cause[lowest] != UNKNOWN:
            return
    keys.floor[key] = max(keys.floor[key], holes.last[lowest])
    _unlink(keys, holes, lowest, lowest_before)


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
def _ahead(keys, holes, key):  # type: ignore[no-untyped-def]
    """How many refused stretches lie ahead of the key's last number."""
    number, hole = 0, keys.head[key]
    while hole != NONE and holes.first[hole] > keys.last[key]:
        number += 1
        hole = holes.next[hole]
    return number


@numba.njit(cache=True)
def _land(keys, holes, key, low, high):  # type: ignore[no-untyped-def]
    """Good copies of numbers low..high, of which some were refused ahead of their time: those are there now."""
    before, hole = NONE, keys.head[key]
    while hole != NONE and holes.first[hole] > keys.last[key]:
        following = holes.next[hole]
        if holes.first[hole] > high or holes.last[hole] < low:
            before = hole
        elif low <= holes.first[hole] and high >= holes.last[hole]:
            _unlink(keys, holes, hole, before)
        elif low > holes.first[hole] and high < holes.last[hole]:
            below = holes.first[hole]
            holes.first[hole] = high + 1
            # beyond the bound the lower part is forgotten: its numbers will count as missing
            if _ahead(keys, holes, key) < MAX_AHEAD_PER_KEY:
                _piece(keys, holes, hole, below, low - 1)
            return
        elif low > holes.first[hole]:
            holes.last[hole] = low - 1
            before = hole
        else:
            holes.first[hole] = high + 1
            before = hole
        hole = following


@numba.njit(cache=True)
def _absorb(keys, holes, key):  # type: ignore[no-untyped-def]
    """Refused numbers that follow the last one are part of the past now."""
    last, lowest, hole = keys.last[key], NONE, keys.head[key]
    while hole != NONE and holes.first[hole] > last:
        lowest = hole
        hole = holes.next[hole]
    if lowest != NONE and holes.first[lowest] == last + 1:
        keys.last[key] = holes.last[lowest]
    elif hole != NONE and holes.last[hole] > last:  # a refused stretch of the past that has grown
        keys.last[key] = holes.last[hole]


@numba.njit(cache=True)
def _open_before_all(rows, row, now, keys, holes):  # type: ignore[no-untyped-def]
    """Below the first number that is seen any may still come: not one of them has landed, and none is missing."""
    key, high = rows.key[row], rows.previous[row]
    before, hole = NONE, keys.head[key]
    while hole != NONE:
        following = holes.next[hole]
        if holes.last[hole] <= high:
            _unlink(keys, holes, hole, before)
        else:
            before = hole
        hole = following
    hole = _made(rows, row, now, keys, holes, 0, high, QUARANTINED)
    holes.origin[hole] = UNCLAIMED


@numba.njit(cache=True)
def _missing_between(keys, holes, key, low, high):  # type: ignore[no-untyped-def]
    """How much of low..high nobody has seen, and in how many pieces."""
    total, pieces, top = 0, 0, high
    hole, last, jumps = keys.head[key], keys.last[key], keys.sparse[key]
    while hole != NONE and holes.first[hole] > last:
        if holes.first[hole] <= high:
            if holes.last[hole] < top:
                pieces += 1
                total += 1 if jumps else top - holes.last[hole]
            top = holes.first[hole] - 1
        hole = holes.next[hole]
    if top >= low:
        pieces += 1
        total += 1 if jumps else top - low + 1
    return total, pieces


@numba.njit(cache=True)
def _open_gap(rows, row, now, keys, holes, queue, events, bad):  # type: ignore[no-untyped-def]
    """Holes before a good row: what lies between the last number and it, without what was refused there."""
    key, high = rows.key[row], rows.previous[row]
    if keys.last[key] == NEVER:
        _open_before_all(rows, row, now, keys, holes)
        return
    low = keys.last[key] + 1
    total, pieces = _missing_between(keys, holes, key, low, high)
    if pieces == 0:
        return
    unread = _unread(keys, key, bad) - keys.unread[key]
    explained = total <= unread and keys.explained[key] + pieces <= MAX_EXPLAINED_PER_KEY
    cause = QUARANTINED if explained else UNKNOWN
    top, hole = high, keys.head[key]
    while hole != NONE and holes.first[hole] >= low:
        # looked up before a piece is opened, which may free the lowest hole and take its place
        following = holes.next[hole]
        if following != NONE and holes.first[following] < low:
            following = NONE
        if holes.first[hole] <= high:
            if holes.last[hole] < top:
                _open_piece(rows, row, now, keys, holes, events, bad, holes.last[hole] + 1, top, cause)
            top = holes.first[hole] - 1
        hole = following
    if top >= low:
        _open_piece(rows, row, now, keys, holes, events, bad, low, top, cause)
    if explained:
        keys.used[key] += total
    else:
        _enqueue(queue, rows.partition[row], key, rows.offset[row], now)


@numba.njit(cache=True)
def _open_piece(rows, row, now, keys, holes, events, bad, first, last, cause):  # type: ignore[no-untyped-def]
    key = rows.key[row]
    if cause == UNKNOWN and keys.holes[key] >= MAX_HOLES_PER_KEY:
        _drop_lowest(events, row, keys, holes, key, bad)
    hole = _made(rows, row, now, keys, holes, first, last, cause)
    if cause != UNKNOWN:
        holes.origin[hole] = UNCLAIMED


@numba.njit(cache=True)
def _refuse_ahead(rows, row, now, keys, holes, first, last):  # type: ignore[no-untyped-def]
    """Note refused numbers beyond the last one. Returns whether there was room."""
    key = rows.key[row]
    into, before, hole = NONE, NONE, keys.head[key]
    while hole != NONE and holes.last[hole] >= first - 1:
        following = holes.next[hole]
        if holes.cause[hole] != QUARANTINED or holes.first[hole] > last + 1:
            before = hole
        elif into == NONE:
            holes.first[hole] = min(holes.first[hole], first)
            holes.last[hole] = max(holes.last[hole], last)
            holes.after_micros[hole] = max(holes.after_micros[hole], rows.event_micros[row])
            into = before = hole
        else:
            holes.first[into] = min(holes.first[into], holes.first[hole])
            _widen(holes, into, hole)
            _unlink(keys, holes, hole, before)
        hole = following
    if into != NONE:
        return True
    if _ahead(keys, holes, key) >= MAX_AHEAD_PER_KEY or keys.explained[key] >= MAX_EXPLAINED_PER_KEY:
        return False
    _made(rows, row, now, keys, holes, first, last, QUARANTINED)
    return True


@numba.njit(cache=True)
def _widen(holes, hole, other):  # type: ignore[no-untyped-def]
    """The times around both holes."""
    holes.before_micros[hole] = min(holes.before_micros[hole], holes.before_micros[other])
    holes.after_micros[hole] = max(holes.after_micros[hole], holes.after_micros[other])


@numba.njit(cache=True)
def _join(keys, holes, upper):  # type: ignore[no-untyped-def]
    """One hole of two that touch and are alike."""
    if upper == NONE or holes.next[upper] == NONE:
        return
    lower = holes.next[upper]
    alike = holes.cause[upper] == holes.cause[lower] and holes.first[upper] == holes.last[lower] + 1
    if not alike or holes.cause[upper] == UNKNOWN:
        return
    same_gap = holes.origin[upper] == holes.origin[lower] and holes.opened_offset[upper] == holes.opened_offset[lower]
    both = (holes.origin[upper] == UNCLAIMED) == (holes.origin[lower] == UNCLAIMED)
    if same_gap or (holes.cause[upper] == QUARANTINED and both):
        holes.first[upper] = holes.first[lower]
        _widen(holes, upper, lower)
        _unlink(keys, holes, lower, upper)


@numba.njit(cache=True)
def _before(keys, holes, hole):  # type: ignore[no-untyped-def]
    before, at = NONE, keys.head[holes.key[hole]]
    while at != hole:
        before, at = at, holes.next[at]
    return before


@numba.njit(cache=True)
def _explain_hole(events, row, keys, holes, hole, low, high):  # type: ignore[no-untyped-def]
    """Numbers low..high of an unexplained hole are in quarantine."""
    key, first, last = holes.key[hole], holes.first[hole], holes.last[hole]
    rests = int(low > first) + int(high < last)
    if keys.holes[key] + rests - 1 > MAX_HOLES_PER_KEY or keys.explained[key] >= MAX_EXPLAINED_PER_KEY:
        return
    if holes.reported[hole] == 1:
        _emit(events, row, EXPLAIN, holes, hole, low, high)
    cause = QUARANTINED_GAP if holes.reported[hole] == 1 else QUARANTINED
    holes.first[hole] = low
    holes.last[hole] = high
    if high < last:
        _piece(keys, holes, hole, high + 1, last)
    if low > first:
        _piece(keys, holes, hole, first, low - 1)
    _relabel(keys, holes, hole, cause)
    before = _before(keys, holes, hole)
    _join(keys, holes, hole)
    _join(keys, holes, before)


@numba.njit(cache=True)
def _explain(events, row, keys, holes, key, low, high):  # type: ignore[no-untyped-def]
    """Refused numbers that had been missed. Those that are not in a hole have landed before."""
    hole = keys.head[key]
    while hole != NONE and holes.last[hole] >= low:
        # the next one may be joined to this one, or a rest of it put between them
        following = holes.next[hole]
        if holes.cause[hole] == UNKNOWN and holes.first[hole] <= high:
            below = holes.first[hole]
            _explain_hole(events, row, keys, holes, hole, max(below, low), min(holes.last[hole], high))
            following = keys.head[key]
            while following != NONE and holes.first[following] >= below:
                following = holes.next[following]
        hole = following


@numba.njit(cache=True)
def _begin_anew(keys, key):  # type: ignore[no-untyped-def]
    """Missing numbers are forgotten that no gap tells of: what was received is known from the last message on."""
    keys.first[key] = keys.last[key]
    keys.first_micros[key] = keys.last_micros[key]


@numba.njit(cache=True)
def _split(events, row, keys, holes, hole, low, high, bad):  # type: ignore[no-untyped-def]
    """Take low..high out of the middle of a hole: what is left below becomes a hole of its own."""
    key, first = holes.key[hole], holes.first[hole]
    if holes.cause[hole] == UNKNOWN and keys.holes[key] >= MAX_HOLES_PER_KEY:
        if holes.reported[hole] == 0:
            _tell(events, row, keys, holes, hole, bad)
            if holes.cause[hole] == UNKNOWN:
                _emit(events, row, FILL, holes, hole, low, high)
        keys.floor[key] = max(keys.floor[key], low - 1)
        holes.first[hole] = high + 1
        if holes.cause[hole] != UNKNOWN:
            _begin_anew(keys, key)
        return
    holes.first[hole] = high + 1
    if holes.cause[hole] != UNKNOWN and keys.explained[key] >= MAX_EXPLAINED_PER_KEY:
        keys.floor[key] = max(keys.floor[key], low - 1)
        _begin_anew(keys, key)
        return
    _piece(keys, holes, hole, first, low - 1)


@numba.njit(cache=True)
def _fill(events, row, keys, holes, key, low, high, bad):  # type: ignore[no-untyped-def]
    """Take low..high out of the key's holes. Returns the verdict on a row of these numbers."""
    verdict = HORIZON if high <= keys.floor[key] else DUPLICATE
    before, hole = NONE, keys.head[key]
    while hole != NONE and holes.last[hole] >= low:
        following, first, last = holes.next[hole], holes.first[hole], holes.last[hole]
        if first > high:
            before, hole = hole, following
            continue
        verdict = LATE
        if holes.reported[hole] == 1 and holes.cause[hole] != QUARANTINED:
            kind = FILL if holes.cause[hole] == UNKNOWN else FILL_EXPLAINED
            _emit(events, row, kind, holes, hole, max(first, low), min(last, high))
        if low <= first and high >= last:
            _unlink(keys, holes, hole, before)
            hole = following
            continue
        if low > first and high < last:
            _split(events, row, keys, holes, hole, low, high, bad)
            return verdict
        if low > first:
            holes.last[hole] = low - 1
        else:
            holes.first[hole] = high + 1
        before, hole = hole, following
    return verdict


@numba.njit(cache=True)
def _tell_counted(row, key, keys, holes, events, bad, grace_messages):  # type: ignore[no-untyped-def]
    hole = keys.head[key]
    while hole != NONE:
        if holes.reported[hole] == 0 and keys.messages[key] - holes.opened_count[hole] >= grace_messages:
            _tell(events, row, keys, holes, hole, bad)
        hole = holes.next[hole]


@numba.njit(cache=True)
def _tell_overdue(row, partition, now, keys, holes, queue, events, bad, grace_ms):  # type: ignore[no-untyped-def]
    at = queue.head[partition]
    while at != NONE and now >= queue.opened_ms[at] + grace_ms:
        hole = keys.head[queue.key[at]]
        while hole != NONE:
            if holes.reported[hole] == 0 and holes.opened_offset[hole] == queue.opened_offset[at]:
                _tell(events, row, keys, holes, hole, bad)
            hole = holes.next[hole]
        at = queue.next[at]
    queue.head[partition] = at


@numba.njit(cache=True)
def _refuse(rows, row, now, keys, holes, events, bad):  # type: ignore[no-untyped-def]
    """A message with numbers that is in quarantine: they are missing, and nobody needs to ask why."""
    key, low, high = rows.key[row], rows.previous[row] + 1, rows.sequence[row]
    last = keys.last[key]
    if low > high:
        bad[keys.symbol[key]] += 1
        return
    keys.messages[key] += 1
    if low <= last:
        _explain(events, row, keys, holes, key, low, min(high, last))
    if high > last and not _refuse_ahead(rows, row, now, keys, holes, max(low, last + 1), high):
        bad[keys.symbol[key]] += 1
    if last != NEVER:
        _absorb(keys, holes, key)


@numba.njit(cache=True)
def _hole_of(keys, holes, key, number):  # type: ignore[no-untyped-def]
    """The hole that has this number, or NONE."""
    hole = keys.head[key]
    while hole != NONE and holes.last[hole] >= number:
        if holes.first[hole] <= number:
            return hole
        hole = holes.next[hole]
    return NONE


@numba.njit(cache=True)
def _has_come(keys, holes, key, number):  # type: ignore[no-untyped-def]
    """Whether a message of this number has landed or was refused before, as far as is remembered."""
    hole = _hole_of(keys, holes, key, number)
    if hole != NONE:
        return holes.cause[hole] != UNKNOWN and holes.origin[hole] != UNCLAIMED
    return keys.floor[key] < number <= keys.last[key]


@numba.njit(cache=True)
def _doubt(rows, row, keys, key, events):  # type: ignore[no-untyped-def]
    """Remember a number that is not believed. Its message is refused, and is as an unreadable one of this key alone: it
    may explain a number that is missing before the next."""
    flag, high, last = rows.flag[row], rows.sequence[row], keys.last[key]
    if flag in (GOOD, RETURNED):
        at = events.used[0]
        events.row[at], events.kind[at], events.key[at] = row, JUMPED, key
        events.first[at], events.last[at], events.origin[at] = last, high, last
        events.opened_offset[at] = rows.offset[row]
        events.before_micros[at], events.after_micros[at] = keys.last_micros[key], rows.event_micros[row]
        events.used[0] = at + 1
    if flag in (RETURNED, RETURNED_REFUSED):
        return
    if keys.far_last[key] != last or keys.far[key] != high:  # a copy of it is not another message that went missing
        keys.used[key] -= 1
    keys.far[key], keys.far_last[key] = high, last


@numba.njit(cache=True)
def _is_jump(rows, row, now, keys, holes, events, reach):  # type: ignore[no-untyped-def]
    """Whether a number is too far ahead to be believed. Where the one that was doubted just before confirms it, that
    one is noted as refused ahead, and what lies before both becomes a gap."""
    key, high = rows.key[row], rows.sequence[row]
    last, bound = keys.last[key], reach[keys.sparse[key]]
    if last == NEVER or high <= last + bound or rows.previous[row] >= high:
        return False
    doubted, flag = keys.far[key], rows.flag[row]
    # a number in order since then shows that the numbering goes on where it was
    is_next = keys.far_last[key] == last and flag in (GOOD, REFUSED)
    if not is_next or high == doubted or abs(high - doubted) > bound:
        _doubt(rows, row, keys, key, events)
        return True
    _refuse_ahead(rows, row, now, keys, holes, doubted, doubted)
    return False


@numba.njit(cache=True)
def _judge_row(rows, row, now, keys, holes, queue, events, bad, reach):  # type: ignore[no-untyped-def]
    is_refused = rows.flag[row] == REFUSED or rows.flag[row] == RETURNED_REFUSED
    if _is_jump(rows, row, now, keys, holes, events, reach):
        return IN_ORDER if is_refused else JUMP
    if is_refused:
        again = _has_come(keys, holes, rows.key[row], rows.sequence[row])
        _refuse(rows, row, now, keys, holes, events, bad)
        return DUPLICATE if again else IN_ORDER
    key, low, high = rows.key[row], rows.previous[row] + 1, rows.sequence[row]
    last = keys.last[key]
    keys.messages[key] += 1
    if high <= last:
        # its last number is what identifies it: another message that had this one has landed, or it is forgotten
        verdict = HORIZON if high <= keys.floor[key] else DUPLICATE
        if _hole_of(keys, holes, key, high) != NONE:
            verdict = _fill(events, row, keys, holes, key, low, high, bad)
        keys.late[key] += int(verdict == LATE)
        keys.duplicates[key] += int(verdict == DUPLICATE)
        return verdict
    if low <= last:
        _fill(events, row, keys, holes, key, low, last, bad)
    _land(keys, holes, key, low, high)
    if low - 1 > last and low > 0:
        _open_gap(rows, row, now, keys, holes, queue, events, bad)
    keys.last[key] = high
    _absorb(keys, holes, key)
    keys.unread[key] = _unread(keys, key, bad)
    keys.last_micros[key] = rows.event_micros[row]
    if keys.first[key] == NEVER:
        keys.first[key] = low
        keys.first_micros[key] = rows.event_micros[row]
    return IN_ORDER


@numba.njit(cache=True)
def _note_unreadable(symbols, partitions, partition, symbol):  # type: ignore[no-untyped-def]
    """It may explain a hole of its symbol. Symbols that no good message has named are remembered to a bound."""
    if symbol == NONE:
        return
    if symbols.known[symbol] == 0 and symbols.bad[symbol] == 0:
        if partitions.strangers[partition] >= MAX_STRANGERS:
            return
        partitions.strangers[partition] += 1
    symbols.bad[symbol] += 1


@numba.njit(cache=True)
def _meet(symbols, partitions, partition, symbol):  # type: ignore[no-untyped-def]
    symbols.known[symbol] = 1
    if symbols.bad[symbol] > 0:
        partitions.strangers[partition] -= 1


@numba.njit(cache=True)
def _new_day(symbols, partitions, partition, now):  # type: ignore[no-untyped-def]
    """Strangers are forgotten with the day (of record time) that saw them."""
    partitions.day_end_ms[partition] = (now // DAY_MS + 1) * DAY_MS
    if partitions.strangers[partition] == 0:
        return
    partitions.strangers[partition] = 0
    for symbol in range(len(symbols.known)):
        if symbols.known[symbol] == 0 and symbols.partition[symbol] == partition:
            symbols.bad[symbol] = 0


@numba.njit(cache=True, nogil=True)
def judge(  # type: ignore[no-untyped-def]
    rows, first_row, keys, holes, queue, events, symbols, partitions, grace_messages, grace_ms, reach, verdicts
):
    """Judge the rows from `first_row` on: fills `verdicts` (int8) and `events`, and moves the state on. A number
    further beyond the last one of its key than `reach` is doubted: of dense keys, of sparse ones.

    Returns the row to go on from with more room for holes, or the number of rows.
    """
    # Rows in order, nearly all, are judged on these names alone: a call that takes the tuples counts a reference to
    # each of their arrays, which costs more than all the rest.
    row_key, row_flag, row_symbol, row_partition = rows.key, rows.flag, rows.symbol, rows.partition
    row_sequence, row_previous, row_time_ms = rows.sequence, rows.previous, rows.time_ms
    row_micros, key_first, key_last_micros = rows.event_micros, keys.first, keys.last_micros
    key_last, key_messages, key_unread, key_waiting = keys.last, keys.messages, keys.unread, keys.waiting
    key_head, key_symbol, key_used, hole_first = keys.head, keys.symbol, keys.used, holes.first
    queue_head, queue_opened_ms = queue.head, queue.opened_ms
    partition_time_ms, partition_day_end_ms = partitions.time_ms, partitions.day_end_ms
    bad, known, free = symbols.bad, symbols.known, holes.free
    for row in range(first_row, len(row_key)):
        if free[0] < HOLES_PER_ROW:
            return row
        partition, flag = row_partition[row], row_flag[row]
        now = max(partition_time_ms[partition], row_time_ms[row])
        partition_time_ms[partition] = now
        if now >= partition_day_end_ms[partition]:
            _new_day(symbols, partitions, partition, now)
        verdicts[row] = IN_ORDER
        if flag == UNREADABLE:
            _note_unreadable(symbols, partitions, partition, row_symbol[row])
        elif flag != SKIPPED:
            key, sequence, previous = row_key[row], row_sequence[row], row_previous[row]
            symbol, last, head = key_symbol[key], key_last[key], key_head[key]
            if known[symbol] == 0:
                _meet(symbols, partitions, partition, symbol)
            none_ahead = head == NONE or hole_first[head] <= last
            in_order = previous == last or (previous < last and head == NONE)
            # in order, only a message that covers many numbers can reach far ahead
            ahead = last < sequence <= last + reach[1]
            if flag == GOOD and ahead and in_order and none_ahead and key_first[key] != NEVER:
                key_messages[key] += 1
                key_last[key] = sequence
                key_unread[key] = bad[symbol] - key_used[key]
                key_last_micros[key] = row_micros[row]
            else:
                verdicts[row] = _judge_row(rows, row, now, keys, holes, queue, events, bad, reach)
            if key_waiting[key] > 0:
                _tell_counted(row, key, keys, holes, events, bad, grace_messages)
        at = queue_head[partition]
        if at != NONE and now >= queue_opened_ms[at] + grace_ms:
            _tell_overdue(row, partition, now, keys, holes, queue, events, bad, grace_ms)
    return len(row_key)
