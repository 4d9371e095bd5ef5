"""One partition of one topic incarnation: what is on record about it, cut into the pieces that are compared. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from k2_dagster.lake.fence import Vector, position_key
from k2_dagster.verify.compare import Int64s, Sums, Tally
from k2_dagster.verify.records import Records
from k2_dagster.verify.report import PartitionReport, ProofKind, Proved
from k2_dagster.verify.tiling import CommittedRange, Lane, check_tiling, lanes


@dataclass(frozen=True, slots=True)
class Retained:
    """Offsets [earliest, end) that Kafka still has of a partition."""

    earliest: int
    end: int


@dataclass(slots=True)
class Partition:
    """`retained` is None when the topic's incarnation is gone. `fences` are those of the data and quarantine table."""

    topic_id: str
    partition: int
    ranges: Sequence[CommittedRange]
    baseline: int | None
    fence: int | None
    quarantine_fence: int | None
    lanes: Sequence[Lane]
    retained: Retained | None
    report: PartitionReport
    tally: Tally
    bounds: dict[int, tuple[int, int]] = field(default_factory=dict)

    def segments(self, lane: Lane) -> Iterator[tuple[int, int, ProofKind]]:
        """Offsets of the lane within its bounds, by the proof that is possible: (first, following, proof)."""
        low, high = self.bounds[lane.topic_epoch]
        from_kafka, to_kafka = high, high
        if self.retained is not None:
            from_kafka = min(max(low, self.retained.earliest), high)
            to_kafka = max(from_kafka, min(high, lane.readable_below, self.retained.end))
        pieces: list[tuple[int, int, ProofKind]] = [
            (low, from_kafka, "tiling"),
            (from_kafka, to_kafka, "offsets"),
            (to_kafka, high, "tiling"),
        ]
        return (piece for piece in pieces if piece[0] < piece[1])

    def proved(self, lane: Lane, first: int, following: int, proof: ProofKind) -> None:
        """Put on the report how a piece was compared; neighbouring pieces become one."""
        if first >= following:
            return
        known = self.report.proofs
        last = known[-1] if known else None
        if last and (last.topic_epoch, last.next_offset, last.proof) == (lane.topic_epoch, first, proof):
            first = last.first_offset
            known.pop()
        known.append(Proved(lane.topic_epoch, first, following, proof))

    def judged(self, lane: Lane) -> list[CommittedRange]:
        """The commits' ranges that lie within the lane's bounds."""
        low, high = self.bounds[lane.topic_epoch]
        return [
            one for one in self.ranges if one.topic_epoch == lane.topic_epoch and low <= one.start <= one.end <= high
        ]

    def narrow(self, lane: Lane, low: int, high: int) -> None:
        """Bound the lane to [low, high), grown to whole commits: only those have counts and digests."""
        touched = [
            one for one in self.ranges if one.topic_epoch == lane.topic_epoch and one.start < high and one.end > low
        ]
        low, high = min([low, *(one.start for one in touched)]), max([high, *(one.end for one in touched)])
        low, high = max(low, lane.begin), min(high, lane.end)
        self.bounds[lane.topic_epoch] = (low, max(low, high))


def partitions(
    records: Records, fence: Vector, quarantine_fence: Vector, live_id: str | None, retained: Mapping[int, Retained]
) -> list[Partition]:
    """Every partition that anything is on record about, oldest incarnation first. `live_id` is the topic as it is."""
    places = {(one.topic_id, one.partition) for one in records.ranges} | set(records.baselines)
    for topic_id in records.epochs:
        places |= {(topic_id, int(key.rsplit(":", 1)[1])) for key in fence if key.startswith(f"{topic_id}:")}
    return [
        _partition(records, place, fence, quarantine_fence, retained.get(place[1]) if place[0] == live_id else None)
        for place in sorted(places, key=lambda one: (records.epochs.get(one[0], -1), *one))
    ]


def _partition(
    records: Records, place: tuple[str, int], fence: Vector, quarantine_fence: Vector, retained: Retained | None
) -> Partition:
    topic_id, number = place
    ranges = [one for one in records.ranges if (one.topic_id, one.partition) == place]
    baseline, at = records.baselines.get(place), fence.get(position_key(*place))
    tally = check_tiling(ranges, baseline, records.losses.get(place, ()), at)
    found = lanes(ranges, baseline, at)
    if not found and at is not None:
        found = [Lane(topic_id, records.epochs.get(topic_id, 0), number, baseline or 0, at, at)]
    if retained is not None and at is not None and at > retained.end:
        tally.add("fence", f"the topic ends at offset {retained.end}, the fence is at {at}", [retained.end])
    return Partition(
        topic_id=topic_id,
        partition=number,
        ranges=ranges,
        baseline=baseline,
        fence=at,
        quarantine_fence=quarantine_fence.get(position_key(*place)),
        lanes=found,
        retained=retained,
        report=PartitionReport(topic_id, number, consumed=sum(one.consumed for one in ranges)),
        tally=tally,
        bounds={one.topic_epoch: (one.begin, one.end) for one in found},
    )


@dataclass(slots=True)
class RangeCheck:
    """What the tables hold of each committed range, fed by pieces, then held against what the commits say."""

    ranges: Sequence[CommittedRange]
    data: Sums = field(init=False)
    quarantine: Sums = field(init=False)
    messages: Sums = field(init=False)
    starts: Int64s = field(init=False)
    ends: Int64s = field(init=False)

    def __post_init__(self) -> None:
        self.starts = np.array([one.start for one in self.ranges], dtype=np.int64)
        self.ends = np.array([one.end for one in self.ranges], dtype=np.int64)
        self.data, self.quarantine, self.messages = (Sums(self.starts, self.ends) for _ in range(3))

    def uncovered(self, offsets: Int64s) -> Int64s:
        """Those of the offsets that no range covers."""
        begun = np.searchsorted(np.sort(self.starts), offsets, side="right")
        over = np.searchsorted(np.sort(self.ends), offsets, side="right")
        return offsets[begun <= over]

    def compare(self, tally: Tally, counted: Sequence[tuple[int, int]]) -> None:
        """`counted` are the offsets whose messages were counted: a range within them must have as many as it says."""
        for at, one in enumerate(self.ranges):
            if one.consumed != one.rows + one.quarantined:
                said = f"{one.consumed} consumed, {one.rows} rows, {one.quarantined} quarantined"
                tally.add("count", "a commit's own counts do not add up", [f"{_named(one)}: {said}"])
            for table, sums, rows, digest in (
                ("data", self.data, one.rows, one.digest),
                ("quarantine", self.quarantine, one.quarantined, one.quarantine_digest),
            ):
                _compare(tally, one, table, rows, digest, int(sums.counts[at]), f"{int(sums.digests[at]):016x}")
            messages = int(self.messages.counts[at])
            within = any(first <= one.start and one.end <= following for first, following in counted)
            if within and messages != one.consumed:
                detail = "Kafka has another number of messages than the commit consumed"
                tally.add("count", detail, [f"{_named(one)}: {messages} messages, {one.consumed} consumed"])


def _compare(
    tally: Tally, one: CommittedRange, table: str, rows: int, digest: str, found_rows: int, found_digest: str
) -> None:
    if found_rows != rows:
        detail = f"the {table} table has another number of rows than the commit says"
        tally.add("count", detail, [f"{_named(one)}: {found_rows} rows, {rows} committed"])
    if found_digest != digest:
        detail = f"the {table} table has other rows than the commit says"
        tally.add("digest", detail, [f"{_named(one)}: digest {found_digest}, committed {digest}"])


def _named(one: CommittedRange) -> str:
    return f"offsets {one.start} to {one.end - 1} of commit {one.commit_id}"
