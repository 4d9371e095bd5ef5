"""The accounts of a batch: per partition, how many messages became rows or went to quarantine, and their digests."""

from collections.abc import Mapping

import numba
import numpy as np
import numpy.typing as npt

from k2_dagster.ingest.decode import DecodedBatch
from k2_dagster.ingest.fixed import fixed
from k2_dagster.ingest.outcome import Topic, int64_values
from k2_dagster.kafka.batch import RawBatch
from k2_dagster.schemas.digest import row_digests, total
from k2_dagster.state.attempts import Range

Flags = npt.NDArray[np.bool_]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def committed_ranges(
    topic: Topic,
    raw: RawBatch,
    decoded: DecodedBatch,
    landed: Flags,
    refused: Flags,
    starts: Mapping[int, int],
) -> list[Range]:
    """One range per partition that the batch moved, with what became of its messages. `landed` and `refused` are per
    raw message, `starts` the positions before the batch."""
    partitions = 1 + max(int(raw.partition.max(initial=-1)), *raw.positions, -1)
    counts = count_messages(fixed(raw.partition), fixed(landed), fixed(refused), partitions)
    digests = landed_digests(raw, decoded, landed, partitions)
    at = np.flatnonzero(refused)
    of_refused = raw.partition[at]
    quarantine = row_digests([of_refused.astype(np.int64), raw.offset[at]])
    return [
        Range(
            topic=raw.topic,
            topic_id=topic.topic_id,
            topic_epoch=topic.epoch,
            partition=partition,
            start=starts[partition],
            end=end,
            consumed=int(counts[partition, 0]),
            rows=int(counts[partition, 1]),
            quarantined=int(counts[partition, 2]),
            digest=f"{int(digests[partition]):016x}",
            quarantine_digest=total(quarantine[of_refused == partition]),
        )
        for partition, end in sorted(raw.positions.items())
        if end != starts[partition]
    ]


def landed_digests(raw: RawBatch, decoded: DecodedBatch, landed: Flags, partitions: int) -> npt.NDArray[np.uint64]:
    """Digest of the rows of each partition, the sum of what `schemas.digest.row_digests` gives for each row."""
    sums = np.zeros(partitions, dtype=np.uint64)
    if landed.any():
        wire = decoded.wire
        time = int64_values(wire.column("exchange_timestamp"))
        sequence = int64_values(wire.column("sequence"), -1)
        publisher_sequence = int64_values(wire.column("publisher_sequence"), -1)
        columns = (landed, decoded.rows, raw.partition, raw.offset, time, sequence, publisher_sequence)
        add_digests(sums, *map(fixed, columns))
    return sums


@numba.njit(cache=True, nogil=True)
def count_messages(partition, landed, refused, partitions):  # type: ignore[no-untyped-def]
    """Messages, rows and quarantined ones of each partition."""
    out = np.zeros((partitions, 3), dtype=np.int64)
    for row in range(len(partition)):
        at = partition[row]
        out[at, 0] += 1
        out[at, 1] += landed[row]
        out[at, 2] += refused[row]
    return out


@numba.njit(cache=True, nogil=True)
def _mixed(state, value):  # type: ignore[no-untyped-def]
    """One step of the digest: splitmix64 of what there is and the next value."""
    mixed = (state ^ np.uint64(value)) + _GAMMA
    mixed = (mixed ^ (mixed >> _SHIFTS[0])) * _MIX_1
    mixed = (mixed ^ (mixed >> _SHIFTS[1])) * _MIX_2
    return mixed ^ (mixed >> _SHIFTS[2])


@numba.njit(cache=True, nogil=True)
def add_digests(  # type: ignore[no-untyped-def]
    sums, landed, rows, partition, offset, time, sequence, publisher_sequence
):
    for place in range(len(rows)):
        row = rows[place]
        if not landed[row]:
            continue
        digest = _mixed(np.uint64(0), np.int64(partition[row]))
        digest = _mixed(digest, offset[row])
        digest = _mixed(digest, time[place])
        digest = _mixed(digest, sequence[place])
        sums[partition[row]] += _mixed(digest, publisher_sequence[place])
