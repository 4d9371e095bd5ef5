"""The comparison of one lane: its rows with Kafka's messages, or with what the commits say of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.verify.compare import Int64s, difference, union
from k2_dagster.verify.consume import CHUNK_OFFSETS, Chunk, TopicReader, Wanted
from k2_dagster.verify.messages import MessageChecks
from k2_dagster.verify.partition import Partition, RangeCheck
from k2_dagster.verify.stage import Sample
from k2_dagster.verify.staging import Staging
from k2_dagster.verify.tiling import Lane


@dataclass(slots=True)
class LaneProof:
    """Compares one lane. `reader` may be None when no segment of it is readable."""

    part: Partition
    lane: Lane
    staging: Staging
    reader: TopicReader | None
    checks: MessageChecks
    sample: Sample
    quarantine_sample: Sample

    def run(self) -> None:
        """Compare chunk by chunk, then the committed ranges as wholes; the outcome is in the partition's report."""
        ranges = RangeCheck(self.part.judged(self.lane))
        for first, following, proof in self.part.segments(self.lane):
            for low in range(first, following, CHUNK_OFFSETS):
                self._chunk(low, min(following, low + CHUNK_OFFSETS), proof == "offsets", ranges)
        counted = [
            (one.first_offset, one.next_offset)
            for one in self.part.report.proofs
            if one.proof == "offsets" and one.topic_epoch == self.lane.topic_epoch
        ]
        ranges.compare(self.part.tally, counted)

    def _chunk(self, first: int, following: int, readable: bool, ranges: RangeCheck) -> None:
        place = (self.lane.topic_epoch, self.lane.partition, first, following)
        data, held = self.staging.rows("data", *place), self.staging.rows("quarantine", *place)
        duplicates = self.staging.duplicates(*place)
        unkept = [at for at, kept in zip(duplicates.offsets, duplicates.values, strict=True) if kept is None]
        chunk = self._read(first, following, readable, np.array(unkept, dtype=np.int64), held.offsets)
        self._stage_returned(chunk)
        ranges.data.add(data.offsets, data.digests)
        ranges.quarantine.add(held.offsets, held.digests)
        ranges.messages.add(chunk.offsets)
        self._compare(chunk, data.offsets, held.offsets, ranges)
        self.checks.claims(self.lane, chunk, duplicates, self.part.tally)
        report = self.part.report
        report.messages += len(chunk.offsets)
        report.rows += len(data.offsets)
        report.quarantined += len(held.offsets)
        report.duplicates += len(duplicates.offsets)
        report.values_compared += self.checks.values(self.lane, chunk, self.part.tally)
        report.originals_compared += self.checks.originals(self.lane, chunk, self.part.tally)
        self.part.proved(self.lane, first, chunk.retained_from, "tiling")
        self.part.proved(self.lane, chunk.retained_from, following, "offsets")

    def _stage_returned(self, chunk: Chunk) -> None:
        found = chunk.first_refused
        if found:
            rows = {
                "topic_epoch": pa.array([self.lane.topic_epoch] * len(found), pa.int32()),
                "kafka_partition": pa.array([self.lane.partition] * len(found), pa.int32()),
                "kafka_offset": pa.array(found, pa.int64()),
                "place": pa.array([place.decode(errors="replace") for place in found.values()], pa.string()),
            }
            self.staging.add_first_refused(pa.table(rows))

    def _read(self, first: int, following: int, readable: bool, unkept: Int64s, held: Int64s) -> Chunk:
        if not readable or self.reader is None:
            return Chunk(first, following, following, np.empty(0, dtype=np.int64))

        def values(offsets: Int64s) -> npt.NDArray[np.bool_]:
            return self.sample.mask(offsets) | np.isin(offsets, unkept)

        originals = held[self.quarantine_sample.mask(held)]
        return self.reader.read(self.lane.partition, first, following, Wanted(values, originals))

    def _compare(self, chunk: Chunk, data: Int64s, held: Int64s, ranges: RangeCheck) -> None:
        found = difference(chunk.offsets, data, held, chunk.retained_from)
        tally = self.part.tally
        tally.add("missing", "a message that is in neither table", found.missing)
        tally.add("extra", "a row whose offset Kafka does not have", found.extra)
        tally.add("duplicated", "an offset that one table has twice", found.twice)
        tally.add("duplicated", "an offset that both tables have", found.in_both)
        known = union(data, held)
        older = known[: np.searchsorted(known, chunk.retained_from)]
        tally.add("extra", "a row whose offset no commit covers", ranges.uncovered(older))
