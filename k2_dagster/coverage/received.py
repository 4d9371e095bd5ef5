"""What was received, as intervals, and the holes in them that no gap tells of: from the tracker's state and from what
it forgot (`state/tracked.py`). Pure.

An interval is what came of one key: numbers `first_sequence` to `last_sequence`, between two times of the venue's. What
is missing in it is a row of the gap ledger, or a hole here: still within its grace (`waiting`) or in quarantine
(`quarantined`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2_dagster.state.tracked import KEY_PARTS, NEVER, QUARANTINED, with_columns

MICROS = pa.timestamp("us", tz="UTC")
_TEXTS = ("exchange", "dataset", "numbering", "stream", "kind", "session", "symbol")
INTERVALS = pa.schema(
    [
        *((name, pa.string()) for name in _TEXTS),
        ("kafka_partition", pa.int32()),
        ("first_sequence", pa.int64()),
        ("last_sequence", pa.int64()),
        ("from_time", MICROS),
        ("to_time", MICROS),
        ("messages", pa.int64()),
        ("out_of_order", pa.int64()),
        ("duplicates", pa.int64()),
        ("is_open", pa.bool_()),
    ]
)
HOLES = pa.schema(
    [
        *((name, pa.string()) for name in _TEXTS),
        ("kafka_partition", pa.int32()),
        ("first_sequence", pa.int64()),
        ("last_sequence", pa.int64()),
        ("from_time", MICROS),
        ("to_time", MICROS),
        ("cause", pa.string()),
    ]
)
WAITING, IN_QUARANTINE = "waiting", "quarantined"
_KEYS = ("last", "messages", "first", "first_micros", "last_micros", "late", "duplicates")
_HOLES = ("key", "first", "last", "cause", "reported", "before_micros", "after_micros")


@dataclass(frozen=True, slots=True)
class Received:
    """Intervals and holes, with the columns of INTERVALS and HOLES."""

    intervals: pa.Table
    holes: pa.Table


def received(
    exchange: str, dataset: str, numbering: str, tables: Mapping[str, pa.Table], *, is_open: bool, symbol: str | None
) -> Received:
    """Of one numbering's `keys` and `holes`; of one symbol, or of all."""
    keys, holes = with_columns(tables["keys"], _KEYS), with_columns(tables["holes"], _HOLES)
    parts = {name: f"part_{place}" for place, name in enumerate(KEY_PARTS[numbering])}
    if parts["symbol"] not in keys.column_names:  # a numbering that has seen nothing
        return Received(INTERVALS.empty_table(), HOLES.empty_table())
    has_some = keys["first"].to_numpy() != NEVER
    if symbol is not None:
        has_some &= pc.equal(keys[parts["symbol"]], symbol).fill_null(False).to_numpy()
    named = {"exchange": exchange, "dataset": dataset, "numbering": numbering}
    texts = _texts(keys, parts, named)
    every = {
        **texts,
        "kafka_partition": keys[parts["partition"]].cast(pa.int32()),
        "first_sequence": keys["first"],
        "last_sequence": keys["last"],
        "from_time": _times(keys["first_micros"]),
        "to_time": _times(keys["last_micros"]),
        "messages": keys["messages"],
        "out_of_order": keys["late"],
        "duplicates": keys["duplicates"],
        "is_open": pa.array(np.full(len(keys), is_open)),
    }
    intervals = pa.table([every[name] for name in INTERVALS.names], schema=INTERVALS)
    return Received(intervals.filter(pa.array(has_some)), _holes(keys, holes, intervals, has_some))


def together(found: Sequence[Received]) -> Received:
    """All of them."""
    return Received(
        pa.concat_tables([INTERVALS.empty_table(), *(one.intervals for one in found)]),
        pa.concat_tables([HOLES.empty_table(), *(one.holes for one in found)]),
    )


def _holes(keys: pa.Table, holes: pa.Table, intervals: pa.Table, wanted: np.ndarray) -> pa.Table:
    """Those that the gap ledger does not have, as far as they lie behind the first number."""
    key = holes["key"].to_numpy()
    first = np.maximum(holes["first"].to_numpy(), keys["first"].to_numpy()[key])
    last, cause = holes["last"].to_numpy(), holes["cause"].to_numpy()
    untold = (cause == QUARANTINED) | (holes["reported"].to_numpy() == 0)
    chosen = np.flatnonzero(untold & wanted[key] & (first <= last))
    of_key = intervals.take(pa.array(key[chosen]))
    columns = {name: of_key[name] for name in (*_TEXTS, "kafka_partition")} | {
        "first_sequence": pa.array(first[chosen]),
        "last_sequence": pa.array(last[chosen]),
        "from_time": _times(holes["before_micros"].take(pa.array(chosen))),
        "to_time": _times(holes["after_micros"].take(pa.array(chosen))),
        "cause": pa.array(np.where(cause[chosen] == QUARANTINED, IN_QUARANTINE, WAITING).astype(object), pa.string()),
    }
    return pa.table([columns[name] for name in HOLES.names], schema=HOLES)


def _texts(keys: pa.Table, parts: Mapping[str, str], named: Mapping[str, str]) -> dict[str, pa.Array]:
    """A part that a numbering does not count by, or that a message did not have, is empty."""
    out = {}
    for name in _TEXTS:
        if name in named:
            out[name] = pa.array([named[name]] * len(keys), pa.string())
        elif name in parts:
            out[name] = keys[parts[name]].cast(pa.string()).fill_null("")
        else:
            out[name] = pa.array([""] * len(keys), pa.string())
    return out


def _known(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(column, NEVER), pa.scalar(None, pa.int64()), column)


def _times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return _known(column).cast(MICROS)
