"""From a writer's layout to the compiled loop's program, and from what it read to Arrow arrays.

Texts that few values share come as dictionary arrays: later stages work on their codes.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest import avro_kernel as kernel
from k2_dagster.ingest.avro_layout import UNION_OF_ONE, Node

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

# Places for items of arrays and for distinct texts that a batch starts with; they double when that is not enough.
_ROOM_ITEMS = 4_096
_ROOM_TEXTS = 1_024
# A table is at most half full, so that a search ends soon.
_TABLE_SHARE = 2
# Chosen anew by every process: nobody can send texts that all fall into one place.
_SEED = np.uint64(secrets.randbits(64))

_KINDS = {
    "boolean": kernel.BOOLEAN,
    "int": kernel.LONG,
    "long": kernel.LONG,
    "float": kernel.FLOAT,
    "double": kernel.DOUBLE,
    "string": kernel.TEXT,
    "bytes": kernel.BYTES,
    "fixed": kernel.FIXED,
    "enum": kernel.ENUM,
    "array": kernel.ARRAY,
    "record": kernel.RECORD,
}
# Which matrix holds the values of a kind; the others are longs.
_MATRIX = {
    kernel.CODED: "codes",
    kernel.ENUM: "codes",
    kernel.TEXT: "texts",
    kernel.BYTES: "texts",
    kernel.FIXED: "texts",
    kernel.ARRAY: "arrays",
    kernel.RECORD: "records",
}


@dataclass(frozen=True, slots=True)
class Op:
    """Where the values of a node are: see the op columns of `avro_kernel`."""

    node: Node
    kind: int
    place: int
    slot: int
    children: tuple["Op", ...]


class Program:
    """How to read the messages of one layout. Raises ValueError for a layout that the compiled loop cannot read: an
    array inside an array, a record that may be null inside one, a union of one."""

    def __init__(self, layout: Node, coded: Collection[str] = ()) -> None:
        """`coded` names fields of the record whose texts few values share."""
        self.layout = layout
        self.coded = [name for name, child in layout.children if name in coded and child.kind in ("string", "enum")]
        self._rows: list[list[int]] = []
        self._counts: dict[str, int] = {}
        self.top = tuple(self._op(child, coded=name in self.coded) for name, child in layout.children)
        self.ops: Int64s = np.array(self._rows, np.int64).reshape(-1, kernel.OP_COLUMNS)

    def count(self, matrix: str, *, inside: bool = False) -> int:
        """How many rows a matrix needs."""
        return self._counts.get(f"{'item_' if inside else ''}{matrix}", 0)

    def _op(self, node: Node, *, coded: bool = False, inside: bool = False) -> Op:
        kind = kernel.CODED if coded and node.kind == "string" else _KINDS[node.kind]
        if node.null_branch == UNION_OF_ONE:
            raise ValueError("a union of one type cannot be read at once")
        if inside and (kind == kernel.ARRAY or (kind == kernel.RECORD and node.nullable)):
            raise ValueError(f"a {node.kind} inside an array cannot be read at once")
        if inside and kind == kernel.RECORD:
            # always there: its fields are read as if they stood by themselves
            return Op(node, kind, 0, 0, tuple(self._op(child, inside=True) for _, child in node.children))
        at = len(self._rows)
        self._rows.append([])
        place = self._next("places", inside)
        slot = self._next("longs" if inside and kind == kernel.ENUM else _MATRIX.get(kind, "longs"), inside)
        within = inside or kind == kernel.ARRAY
        children = tuple(self._op(child, inside=within) for _, child in node.children)
        end = len(self._rows)
        if kind == kernel.ARRAY and end == at + 1:
            raise ValueError("an array of records without fields cannot be read at once")
        self._rows[at] = [kind, place, slot, node.null_branch, end, _size(node), int(inside)]
        return Op(node, kind, place, slot, children)

    def _next(self, matrix: str, inside: bool) -> int:
        name = f"{'item_' if inside else ''}{matrix}"
        found = self._counts.get(name, 0)
        self._counts[name] = found + 1
        return found


def _size(node: Node) -> int:
    if node.kind == "enum":
        return len(node.attributes["symbols"])
    return int(node.attributes["size"]) if node.kind == "fixed" else 0


class _Matrices:
    """What the loop fills: a row per node and a column per message, or per item of an array."""

    def __init__(self, program: Program, columns: int, *, inside: bool = False) -> None:
        self.longs = np.empty((program.count("longs", inside=inside), columns), np.int64)
        self.texts = np.empty((program.count("texts", inside=inside), columns), np.int32)
        self.sizes = np.empty_like(self.texts)
        self.codes = np.empty((program.count("codes", inside=inside), columns), np.int32)
        self.valid = np.empty((program.count("places", inside=inside), columns), np.bool_)
        self.nulls = np.zeros(program.count("places", inside=inside), np.int64)

    def doubled(self, used: int) -> None:
        """Room for twice as many columns."""
        for name in ("longs", "texts", "sizes", "codes", "valid"):
            before = getattr(self, name)
            after = np.empty((before.shape[0], 2 * before.shape[1]), before.dtype)
            after[:, :used] = before[:, :used]
            setattr(self, name, after)


class _Texts:
    """Distinct texts per coded column, where the loop first met them."""

    def __init__(self, columns: int) -> None:
        self.starts = np.empty((columns, _ROOM_TEXTS), np.int32)
        self.sizes = np.empty_like(self.starts)
        self.words = np.empty((columns, _ROOM_TEXTS), np.uint64)
        self.table = np.zeros((columns, _ROOM_TEXTS * _TABLE_SHARE), np.int32)
        self.counts = np.zeros(columns, np.int64)
        self.last = np.full(columns, -1, np.int64)

    def doubled(self, data: npt.NDArray[np.uint8]) -> None:
        """Room for twice as many."""
        for name in ("starts", "sizes", "words"):
            before = getattr(self, name)
            setattr(self, name, np.concatenate([before, np.empty_like(before)], axis=1))
        self.table = np.zeros((len(self.counts), self.table.shape[1] * 2), np.int32)
        kernel.rehash(data, _SEED, self.table, self.starts, self.sizes, self.counts)


def read(program: Program, data: npt.NDArray[np.uint8], offsets: Int32s, skip: int) -> tuple[pa.StructArray, Flags]:
    """The records of messages that stand in `data` between `offsets`, `skip` bytes behind the begin of each; and which
    of them are proven. The others have no record."""
    count = len(offsets) - 1
    rows, items = _Matrices(program, count), _Matrices(program, _ROOM_ITEMS, inside=True)
    texts = _Texts(program.count("codes"))
    ends = np.zeros((program.count("arrays"), count + 1), np.int32)
    filled = np.zeros(len(ends), np.int64)
    good = np.empty(count, np.bool_)
    row = 0
    while True:
        row, why = kernel.read(
            *(program.ops, data, offsets, skip, row, good),
            *(rows.longs, rows.texts, rows.sizes, rows.codes, ends, rows.valid, rows.nulls),
            *(items.longs, items.texts, items.sizes, items.valid, items.nulls, filled),
            *(_SEED, texts.table, texts.starts, texts.sizes, texts.words, texts.counts, texts.last),
        )
        if why == kernel.DONE:
            break
        if why == kernel.ITEMS_FULL:
            items.doubled(int(filled.max()))
        else:
            texts.doubled(data)
    doubted = None if good.all() else ~good
    records = _Arrays(program, data, rows, items, texts, ends, filled, doubted).record()
    return (records if doubted is None else records.take(pa.array(np.flatnonzero(good)))), good


@dataclass(frozen=True, slots=True)
class _Arrays:
    """Makes Arrow arrays of what the loop filled. Messages that are in doubt, if any, may have left anything."""

    program: Program
    data: npt.NDArray[np.uint8]
    rows: _Matrices
    items: _Matrices
    texts: _Texts
    ends: Int32s
    filled: Int64s
    doubted: Flags | None

    def record(self) -> pa.StructArray:
        """The records of all messages."""
        names = [name for name, _ in self.program.layout.children]
        count = self.rows.valid.shape[1]
        arrays = [
            self._codes(op, self._valid(op, self.rows, count))
            if name in self.program.coded
            else self._array(op, self.rows, count)
            for name, op in zip(names, self.program.top, strict=True)
        ]
        return pa.StructArray.from_arrays(arrays, names=names)

    def _array(self, op: Op, of: _Matrices, count: int, above: Flags | None = None) -> pa.Array:
        """`above` is where the record that it belongs to is not null, if some are."""
        valid = self._valid(op, of, count)
        valid = above if valid is None else valid
        if valid is not None and not valid.any():
            return pa.nulls(count, op.node.arrow)
        match op.kind:
            case kernel.ARRAY:
                return self._list(op, valid)
            case kernel.RECORD:
                arrays = [self._array(child, of, count, valid) for child in op.children]
                mask = None if valid is None else pa.array(~valid)
                return pa.StructArray.from_arrays(arrays, fields=list(op.node.arrow), mask=mask)
            case kernel.ENUM:
                return (
                    self._codes(op, valid).cast(pa.string()) if of is self.rows else self._item_enum(op, valid, count)
                )
            case kernel.TEXT | kernel.BYTES | kernel.FIXED:
                return self._spans(op, of, valid, count)
        return _numbers(op.kind, of.longs[op.slot, :count], valid, op.node.arrow)

    def _valid(self, op: Op, of: _Matrices, count: int) -> Flags | None:
        """None where nothing is null. A record inside an array always is there."""
        if not op.node.nullable or not of.nulls[op.place]:
            return None
        return of.valid[op.place, :count]

    def _list(self, op: Op, valid: Flags | None) -> pa.ListArray:
        items = self._array(op.children[0], self.items, int(self.filled[op.slot]))
        mask = None if valid is None else pa.array(~valid)
        return pa.ListArray.from_arrays(pa.array(self.ends[op.slot]), items, type=op.node.arrow, mask=mask)

    def _spans(self, op: Op, of: _Matrices, valid: Flags | None, count: int) -> pa.Array:
        """Texts or bytes, copied one behind the other."""
        sizes = of.sizes[op.slot, :count]
        if valid is not None:
            sizes = np.where(valid, sizes, 0)
        if of is self.rows and self.doubted is not None:
            sizes = np.where(self.doubted, 0, sizes)
        ends = np.zeros(count + 1, np.int32)
        np.cumsum(sizes, out=ends[1:])
        out = np.empty(int(ends[-1]), np.uint8)
        kernel.gather(self.data, of.texts[op.slot, :count], sizes, ends, out)
        buffers = [_bitmap(valid), pa.py_buffer(ends), pa.py_buffer(out)]
        return pa.Array.from_buffers(op.node.arrow, count, buffers)

    def _item_enum(self, op: Op, valid: Flags | None, count: int) -> pa.Array:
        return _dictionary(self.items.longs[op.slot, :count], valid, op.node.attributes["symbols"]).cast(pa.string())

    def _codes(self, op: Op, valid: Flags | None) -> pa.DictionaryArray:
        if op.kind == kernel.ENUM:
            values = op.node.attributes["symbols"]
        else:
            known = slice(0, int(self.texts.counts[op.slot]))
            starts, sizes = self.texts.starts[op.slot, known], self.texts.sizes[op.slot, known]
            values = [
                bytes(self.data[start : start + size]).decode() for start, size in zip(starts, sizes, strict=True)
            ]
        codes = self.rows.codes[op.slot]
        if self.doubted is not None:
            codes = np.where(self.doubted, 0, codes)
        return _dictionary(codes, valid, values)


def _dictionary(codes: Int32s | Int64s, valid: Flags | None, values: list[str]) -> pa.DictionaryArray:
    known = codes if valid is None else np.where(valid, codes, 0)
    buffers = [_bitmap(valid), pa.py_buffer(known.astype(np.int32, copy=False))]
    indices = pa.Array.from_buffers(pa.int32(), len(codes), buffers)
    return pa.DictionaryArray.from_arrays(indices, pa.array(values, pa.string()), safe=False)


def _numbers(kind: int, values: Int64s, valid: Flags | None, wanted: pa.DataType) -> pa.Array:
    if kind == kernel.BOOLEAN:
        return pa.array(values != 0, wanted, mask=None if valid is None else ~valid)
    typed: npt.NDArray[Any] = values
    if kind == kernel.FLOAT:
        typed = values.astype(np.uint32).view(np.float32)
    elif kind == kernel.DOUBLE:
        typed = values.view(np.float64)
    return pa.Array.from_buffers(wanted, len(values), [_bitmap(valid), pa.py_buffer(typed)])


def _bitmap(valid: Flags | None) -> pa.Buffer | None:
    return None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
