"""Digest of a multiset of rows: the proof that outlives Kafka's retention.

A row's digest mixes its position, event time and numbers with splitmix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", 2014); a set's digest is the sum modulo 2^64, so order and file boundaries do not
matter and parts can be added up. It detects damage, not a forger.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# The columns that a data row's digest covers, in this order; a null counts as -1.
ROW_COLUMNS = ("kafka_partition", "kafka_offset", "exchange_timestamp", "sequence", "publisher_sequence")
# A quarantined row has only a position.
QUARANTINE_COLUMNS = ("kafka_partition", "kafka_offset")

# Rows mixed at a time: what is worked on stays in the processor's cache.
BLOCK_ROWS = 16_384
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def row_digests(columns: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.uint64]:
    """One uint64 per row from equally long int64 columns, given in the order of the constants above."""
    state = np.zeros(len(columns[0]), dtype=np.uint64)
    scratch = np.empty(min(len(state), BLOCK_ROWS), dtype=np.uint64)
    for first in range(0, len(state), BLOCK_ROWS):
        block = state[first : first + BLOCK_ROWS]
        for column in columns:
            values = column[first : first + BLOCK_ROWS].astype(np.int64, copy=False)
            block ^= values.view(np.uint64)
            _splitmix(block, scratch[: len(block)])
    return state


def total(digests: npt.NDArray[np.uint64]) -> str:
    """Digest of the set as 16 hexadecimal digits; of no rows, zeros."""
    return f"{int(np.add.reduce(digests, dtype=np.uint64)):016x}"


def _splitmix(value: npt.NDArray[np.uint64], scratch: npt.NDArray[np.uint64]) -> None:
    """In place."""
    value += _GAMMA
    for shift, factor in ((np.uint64(30), _MIX_1), (np.uint64(27), _MIX_2)):
        np.right_shift(value, shift, out=scratch)
        value ^= scratch
        value *= factor
    np.right_shift(value, np.uint64(31), out=scratch)
    value ^= scratch
