"""The compiled loop that reads Avro messages into columns, and proves of each that it is exactly its bytes.

A message that is read here took all of its bytes, with every number and length written the shortest way, every branch,
symbol and text valid. Any other is in doubt: it is left out, and whoever calls reads it alone. One file, because
numba's cache on disk does not see changes in other modules.

Op columns, one row per node of the schema in the order of its bytes:

    KIND    what is read, below
    PLACE   row of the validity matrix: of the batch's, or inside an array of that of its items
    SLOT    row of the matrix that holds the values of this kind
    NULL    which branch of a union with null is null (0 or 1); -1 where there is no union
    END     the op behind this one and all that is inside it
    SIZE    symbols of an enum, bytes of a fixed
    INSIDE  1 for what is inside an array
"""

from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

KIND, PLACE, SLOT, NULL, END, SIZE, INSIDE = range(7)
OP_COLUMNS = 7
# In this order: what stands in the message, from a place on and so long, is CODED to FIXED.
LONG, BOOLEAN, FLOAT, DOUBLE, ENUM, CODED, TEXT, BYTES, FIXED, ARRAY, RECORD = range(11)

# Why the loop stopped: at the end, or at a message for which there is no more room among items or distinct texts.
DONE, ITEMS_FULL, TEXTS_FULL = range(3)

_DOUBT = np.int64(-1)
_FULL = np.int64(-2)
_WORD_BYTES = 8
_VARINT_BYTES = 10
# 64 bits of the golden ratio: spreads neighbours over a table (Knuth, TAOCP 3, 6.4).
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_NON_ASCII = np.uint64(0x8080808080808080)
# Where the even and the odd groups stand when bytes of seven bits close up: by twos, by fours, by eights.
_SEVENS, _SEVENS_UP = np.uint64(0x007F007F007F007F), np.uint64(0x3F803F803F803F80)
_FOURTEENS, _FOURTEENS_UP = np.uint64(0x00003FFF00003FFF), np.uint64(0x0FFFC0000FFFC000)
_TWENTY_EIGHTS, _TWENTY_EIGHTS_UP = np.uint64(0x000000000FFFFFFF), np.uint64(0x00FFFFFFF0000000)


def _loads(width: Any) -> Any:
    """An unsigned number at an address, wherever it begins. Addresses, not arrays: passing an array on counts its
    references, which would cost more than what is done with it here."""

    @intrinsic
    def load(_typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            pointer = context.get_value_type(width).as_pointer()
            return builder.load(builder.inttoptr(arguments[0], pointer), align=1)

        return width(address), generate

    return load


_byte: Any = _loads(types.uint8)
_word: Any = _loads(types.uint64)


def _count_zeros(_typing: Any, word: Any) -> Any:
    """How many of a number's low bits are zero before the first one; it has one."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], cgutils.true_bit)

    return types.uint64(word), generate


_zeros_below: Any = intrinsic(_count_zeros)


@numba.njit(cache=True, nogil=True)
def _tail(at, size, limit):  # type: ignore[no-untyped-def]
    """Up to eight bytes as one number, the others zero. Nothing is read at `limit` or behind it."""
    if at + _WORD_BYTES <= limit:
        word = _word(at)
        return word if size == _WORD_BYTES else word & ((np.uint64(1) << np.uint64(8 * size)) - np.uint64(1))
    found = np.uint64(0)
    for place in range(size):
        found |= np.uint64(_byte(at + place)) << np.uint64(8 * place)
    return found


@numba.njit(cache=True, nogil=True)
def _same(one, other, size, limit):  # type: ignore[no-untyped-def]
    while size > _WORD_BYTES:
        if _word(one) != _word(other):
            return False
        one += _WORD_BYTES
        other += _WORD_BYTES
        size -= _WORD_BYTES
    return _tail(one, size, limit) == _tail(other, size, limit)


@numba.njit(cache=True, nogil=True)
def _hash(at, size, limit, seed):  # type: ignore[no-untyped-def]
    found = seed ^ np.uint64(size)
    while size > _WORD_BYTES:
        found = (found ^ _word(at)) * _SPREAD
        found ^= found >> np.uint64(29)
        at += _WORD_BYTES
        size -= _WORD_BYTES
    found = (found ^ _tail(at, size, limit)) * _SPREAD
    return found ^ (found >> np.uint64(32))


@numba.njit(cache=True, nogil=True)
def _is_ascii(at, size, limit):  # type: ignore[no-untyped-def]
    while size > _WORD_BYTES:
        if _word(at) & _NON_ASCII:
            return False
        at += _WORD_BYTES
        size -= _WORD_BYTES
    return _tail(at, size, limit) & _NON_ASCII == 0


@numba.njit(cache=True, nogil=True)
def _is_utf8(at, size, limit):  # type: ignore[no-untyped-def]
    """Whether bytes are UTF-8 as the Unicode standard has it (table 3-7): no surrogates, nothing longer than it has to
    be."""
    if _is_ascii(at, size, limit):
        return True
    end = at + size
    while at < end:
        first = _byte(at)
        at += 1
        if first < 0x80:
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= first <= 0xDF:
            more = 1
        elif 0xE0 <= first <= 0xEF:
            more = 2
            low = 0xA0 if first == 0xE0 else low
            high = 0x9F if first == 0xED else high
        elif 0xF0 <= first <= 0xF4:
            more = 3
            low = 0x90 if first == 0xF0 else low
            high = 0x8F if first == 0xF4 else high
        else:
            return False
        if at + more > end:
            return False
        for _ in range(more):
            if _byte(at) < low or _byte(at) > high:
                return False
            low, high = 0x80, 0xBF
            at += 1
    return True


@numba.njit(cache=True, nogil=True)
def _varint(at, end, limit):  # type: ignore[no-untyped-def]
    """A number and where it ends; _DOUBT for one that is cut short, too long, or longer than need be."""
    if at + _WORD_BYTES <= limit:
        word = _word(at)
        stops = ~word & _NON_ASCII
        if stops:
            # up to eight bytes without a loop, whose end could not be foreseen: what is behind the last byte goes, and
            # groups of seven bits close up by pairs, fours and eights
            bits = _zeros_below(stops)
            size = np.int64(bits >> np.uint64(3)) + 1
            last = (word >> (bits - np.uint64(7))) & np.uint64(0xFF)
            if at + size > end or (last == 0 and size > 1):
                return _DOUBT, np.int64(0)
            word &= (np.uint64(2) << bits) - np.uint64(1)
            word = (word & _SEVENS) | ((word >> np.uint64(1)) & _SEVENS_UP)
            word = (word & _FOURTEENS) | ((word >> np.uint64(2)) & _FOURTEENS_UP)
            word = (word & _TWENTY_EIGHTS) | ((word >> np.uint64(4)) & _TWENTY_EIGHTS_UP)
            return at + size, np.int64(word >> np.uint64(1)) ^ -np.int64(word & np.uint64(1))
    return _long_varint(at, end)


@numba.njit(cache=True, nogil=True)
def _long_varint(at, end):  # type: ignore[no-untyped-def]
    value = np.uint64(0)
    shift = np.uint64(0)
    for read in range(_VARINT_BYTES):
        if at >= end:
            return _DOUBT, np.int64(0)
        byte = np.uint64(_byte(at))
        at += 1
        value |= (byte & np.uint64(0x7F)) << shift
        shift += np.uint64(7)
        if byte < 0x80:
            if read and (byte == 0 or (read == _VARINT_BYTES - 1 and byte > 1)):
                return _DOUBT, np.int64(0)
            return at, np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1))
    return _DOUBT, np.int64(0)


@numba.njit(cache=True, nogil=True)
def _leaf(kind, size, at, end, limit):  # type: ignore[no-untyped-def]
    """One value that is no container: where it ends, the value (of texts and bytes where they begin), their length."""
    if kind == LONG:
        at, value = _varint(at, end, limit)
        return at, value, np.int64(0)
    if CODED <= kind <= BYTES:
        at, length = _varint(at, end, limit)
        if at < 0 or length < 0 or length > end - at:
            return _DOUBT, np.int64(0), np.int64(0)
        if kind == TEXT and not _is_utf8(at, length, limit):
            return _DOUBT, np.int64(0), np.int64(0)
        return at + length, at, length
    if kind == ENUM:
        at, value = _varint(at, end, limit)
        return (_DOUBT if value < 0 or value >= size else at), value, np.int64(0)
    if kind == BOOLEAN:
        if at >= end or _byte(at) > 1:
            return _DOUBT, np.int64(0), np.int64(0)
        return at + 1, np.int64(_byte(at)), np.int64(0)
    width = size if kind == FIXED else np.int64(4 if kind == FLOAT else 8)
    if width > end - at:
        return _DOUBT, np.int64(0), np.int64(0)
    if kind == FIXED:
        return at + width, at, width
    return at + width, np.int64(_tail(at, width, limit)), np.int64(0)


@numba.njit(cache=True, nogil=True)
def _is_null(null, at, end):  # type: ignore[no-untyped-def]
    """Which branch of a union follows: where it begins, and whether it is null."""
    if at >= end:
        return _DOUBT, False
    branch = np.int64(_byte(at))
    if branch != 0 and branch != 2:
        return _DOUBT, False
    return at + 1, branch == 2 * null


@numba.njit(cache=True, nogil=True)
def _is_known(at, size, limit, known, word):  # type: ignore[no-untyped-def]
    return _tail(at, size, limit) == word if size <= _WORD_BYTES else _same(at, known, size, limit)


@numba.njit(cache=True, nogil=True)
def rehash(data, seed, table, starts, sizes, counts):  # type: ignore[no-untyped-def]
    """Enter the known texts into an empty table."""
    base = np.int64(data.ctypes.data)
    limit = base + len(data)
    mask = np.uint64(table.shape[1] - 1)
    for column in range(len(counts)):
        for found in range(counts[column]):
            slot = _hash(base + starts[column, found], np.int64(sizes[column, found]), limit, seed) & mask
            while table[column, slot]:
                slot = (slot + np.uint64(1)) & mask
            table[column, slot] = found + 1


@numba.njit(cache=True, nogil=True)
def _items(ops, op, base, at, end, limit, filled, longs, texts, sizes, valid, nulls):  # type: ignore[no-untyped-def]  # noqa: C901
    """The blocks of one array: where it ends, and how many items are filled then."""
    inside_end = ops[op, END]
    while True:
        at, count = _varint(at, end, limit)
        if at < 0 or count < 0 or count > end - at:
            return _DOUBT, filled
        if count == 0:
            return at, filled
        if filled + count > valid.shape[1]:
            return _FULL, filled
        for _ in range(count):
            for inner in range(op + 1, inside_end):
                place, slot, kind = ops[inner, PLACE], ops[inner, SLOT], ops[inner, KIND]
                is_null = False
                if ops[inner, NULL] >= 0:
                    at, is_null = _is_null(ops[inner, NULL], at, end)
                    if at < 0:
                        return _DOUBT, filled
                valid[place, filled] = not is_null
                if is_null:
                    nulls[place] += 1
                    continue
                at, value, size = _leaf(kind, ops[inner, SIZE], at, end, limit)
                if at < 0:
                    return _DOUBT, filled
                if TEXT <= kind <= FIXED:
                    texts[slot, filled], sizes[slot, filled] = value - base, size
                else:
                    longs[slot, filled] = value
            filled += 1


@numba.njit(cache=True, nogil=True)
def _nothing(ops, op, row, valid, nulls, ends, filled):  # type: ignore[no-untyped-def]
    """Null for an op and for all that is inside it. What stands under a null is never looked at."""
    for inner in range(op, ops[op, END]):
        if not ops[inner, INSIDE]:
            valid[ops[inner, PLACE], row] = False
            nulls[ops[inner, PLACE]] += 1
            if ops[inner, KIND] == ARRAY:
                ends[ops[inner, SLOT], row + 1] = filled[ops[inner, SLOT]]


@numba.njit(cache=True, nogil=True)
def read(  # type: ignore[no-untyped-def]  # noqa: C901  (compiled: a call with arrays costs more than its work)
    ops, data, offsets, skip, row, good,
    longs, texts, sizes, codes, ends, valid, nulls,
    item_longs, item_texts, item_sizes, item_valid, item_nulls, filled,
    seed, table, known_starts, known_sizes, known_words, known_counts, last,
):  # fmt: skip
    """Read messages from `row` on, `skip` bytes behind the begin of each; `good` says of each whether it was read.

    Returns the first row that was not read for want of room, and why; the number of rows when all were.
    """
    before = filled.copy()
    base = np.int64(data.ctypes.data)
    limit = base + len(data)
    mask = np.uint64(table.shape[1] - 1)
    while row < len(offsets) - 1:
        at, end = base + offsets[row] + skip, base + offsets[row + 1]
        for array in range(len(filled)):
            before[array] = filled[array]
        op = np.int64(0)
        while op < len(ops):
            kind, place, slot, null = ops[op, KIND], ops[op, PLACE], ops[op, SLOT], ops[op, NULL]
            if null >= 0:
                at, is_null = _is_null(null, at, end)
                if at < 0:
                    break
                if is_null:
                    if ops[op, END] == op + 1:
                        valid[place, row] = False
                        nulls[place] += 1
                    else:
                        _nothing(ops, op, row, valid, nulls, ends, filled)
                    op = ops[op, END]
                    continue
                valid[place, row] = True
            if kind == LONG:
                at, value = _varint(at, end, limit)
                if at < 0:
                    break
                longs[slot, row] = value
            elif kind == CODED:
                at, value, size = _leaf(kind, np.int64(0), at, end, limit)
                if at < 0:
                    break
                code = last[slot]
                if (
                    code < 0
                    or known_sizes[slot, code] != size
                    or not _is_known(value, size, limit, base + known_starts[slot, code], known_words[slot, code])
                ):
                    # search from where the hash says on; a free place ends it
                    hashed = _hash(value, size, limit, seed) & mask
                    code = np.int64(table[slot, hashed]) - 1
                    while code >= 0 and (
                        known_sizes[slot, code] != size
                        or not _is_known(value, size, limit, base + known_starts[slot, code], known_words[slot, code])
                    ):
                        hashed = (hashed + np.uint64(1)) & mask
                        code = np.int64(table[slot, hashed]) - 1
                    if code < 0:
                        code = known_counts[slot]
                        if code == known_starts.shape[1]:
                            at = _FULL
                            break
                        if not _is_utf8(value, size, limit):
                            at = _DOUBT
                            break
                        known_counts[slot] += 1
                        known_starts[slot, code], known_sizes[slot, code] = value - base, size
                        if size <= _WORD_BYTES:
                            known_words[slot, code] = _tail(value, size, limit)
                        table[slot, hashed] = code + 1
                    last[slot] = code
                codes[slot, row] = code
            elif kind == ARRAY and at < end and _byte(at) == 0:
                at += 1
                ends[slot, row + 1] = filled[slot]
                op = ops[op, END]
                continue
            elif kind == ARRAY:
                at, filled[slot] = _items(
                    ops, op, base, at, end, limit, filled[slot],
                    item_longs, item_texts, item_sizes, item_valid, item_nulls,
                )  # fmt: skip
                if at < 0:
                    break
                ends[slot, row + 1] = filled[slot]
                op = ops[op, END]
                continue
            elif kind != RECORD:
                at, value, size = _leaf(kind, ops[op, SIZE], at, end, limit)
                if at < 0:
                    break
                if kind == ENUM:
                    codes[slot, row] = value
                elif TEXT <= kind <= FIXED:
                    texts[slot, row], sizes[slot, row] = value - base, size
                else:
                    longs[slot, row] = value
            op += 1
        good[row] = at == end
        if not good[row]:
            # the array's items count again from where the message began; `ends` must not fall behind
            filled[:] = before
            for slot in range(len(filled)):
                ends[slot, row + 1] = filled[slot]
            if at == _FULL:
                return row, (ITEMS_FULL if ops[op, KIND] == ARRAY else TEXTS_FULL)
        row += 1
    return row, DONE


@numba.njit(cache=True, nogil=True)
def gather(data, starts, sizes, ends, out):  # type: ignore[no-untyped-def]
    """Copy texts to where they end in `out`, one behind the other."""
    for row in range(len(starts)):
        at, to = starts[row], ends[row]
        for place in range(sizes[row]):
            out[to + place] = data[at + place]
