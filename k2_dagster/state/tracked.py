"""The form of the sequence tracker's state in an attempt: written by ingest, read by whoever asks what was received.

    pieces      head (JSON), one of each numbering, returned, channel; each with its length before it. A state of before
                rules version 6 has no channel, one of before version 7 in it nothing recent
    numbering   framed Arrow tables; `keys` and `holes` mean the same in a state and in what was forgotten of one

A key is what its numbering counts by, a row of `keys`; `part_0`, `part_1`... are its parts (`KEY_PARTS`). A row of
`holes` names its key by place. Times are UTC microseconds, NEVER where there is none.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from k2_dagster.state.frames import unframed

VENUE, PUBLISHER, CHANNEL = "venue", "publisher", "channel"
NUMBERINGS = (VENUE, PUBLISHER)
KEY_PARTS: Mapping[str, tuple[str, ...]] = {
    VENUE: ("partition", "stream", "kind", "session", "symbol"),
    PUBLISHER: ("partition", "session", "symbol"),
}
PIECES = ("head", *NUMBERINGS, "returned", CHANNEL)
# No number and no time.
NEVER = -(2**62)
# Cause of a hole that is in quarantine, or from before the first number that was seen; no gap was reported of it.
QUARANTINED = 1
# Of `keys`: what a state of a former version does not have is NEVER in these, and 0 in the others.
NEVER_AT_FIRST = ("floor", "first", "first_micros", "last_micros", "before_micros", "after_micros", "far", "far_last")

_LENGTH_BYTES = 8


def joined(pieces: Sequence[bytes]) -> bytes:
    """The pieces of a state, in the order of PIECES, as one."""
    return b"".join(len(piece).to_bytes(_LENGTH_BYTES, "big") + piece for piece in pieces)


def parted(state: bytes) -> dict[str, bytes]:
    """What `joined` wrote, by name; without those that a state of a former version does not have."""
    pieces = []
    at = 0
    while at < len(state):
        end = at + _LENGTH_BYTES + int.from_bytes(state[at : at + _LENGTH_BYTES], "big")
        pieces.append(state[at + _LENGTH_BYTES : end])
        at = end
    return dict(zip(PIECES, pieces, strict=False))


def numbering_tables(state: bytes) -> dict[str, dict[str, pa.Table]]:
    """The tables of each numbering of a state."""
    pieces = parted(state)
    return {name: dict(unframed(pieces[name])) for name in NUMBERINGS}


def with_columns(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The table with these columns; those that a state of a former version does not have say that nothing is known."""
    for name in names:
        if name not in table.column_names:
            unknown = NEVER if name in NEVER_AT_FIRST else 0
            table = table.append_column(name, pa.array([unknown] * len(table), pa.int64()))
    return table
