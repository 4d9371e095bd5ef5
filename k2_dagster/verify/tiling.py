"""Whether the ranges of the commits tile a partition from its baseline to the fence. Pure.

A partition's history is cut into lanes, one per epoch: within a lane an offset names one message.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from k2_dagster.verify.compare import Tally


@dataclass(frozen=True, slots=True)
class CommittedRange:
    """Offsets [start, end) of one partition that one commit covers, and what it says became of their messages."""

    commit_id: str
    topic_id: str
    topic_epoch: int
    partition: int
    start: int
    end: int
    consumed: int
    rows: int
    quarantined: int
    digest: str
    quarantine_digest: str


@dataclass(frozen=True, slots=True)
class Lane:
    """Offsets [begin, end) of one partition in one epoch.

    Below `readable_below` the topic, if it is still there, has the messages of this epoch; above, of a later one.
    """

    topic_id: str
    topic_epoch: int
    partition: int
    begin: int
    end: int
    readable_below: int


def check_tiling(
    ranges: Sequence[CommittedRange], baseline: int | None, losses: Sequence[tuple[int, int]], fence: int | None
) -> Tally:
    """Holes, overlaps and a fence elsewhere, for the ranges of one partition in the order of their commits.

    `losses` are accepted jumps (position before, position behind it), each taken once; one that goes back begins
    another epoch.
    """
    tally = Tally()
    expected = baseline if baseline is not None else (ranges[0].start if ranges else None)
    if ranges and baseline is None:
        tally.add("fence", "the partition has commits but no baseline on record", [ranges[0].start])
    left = list(losses)
    for one in ranges:
        assert expected is not None
        if one.start != expected and (used := _leading(left, expected, one.start)):
            expected = one.end
            left = left[used:]
            continue
        if one.start > expected:
            tally.add("hole", "offsets that no commit covers", [expected], one.start - expected)
        elif one.start < expected:
            again = min(one.end, expected) - one.start
            tally.add("overlap", f"commit {one.commit_id} covers offsets again", [one.start], again)
        expected = max(expected, one.end)
    if ranges and fence != expected:
        tally.add("fence", f"the commits end at offset {expected}, the fence is {_shown(fence)}", [expected])
    elif not ranges and fence is not None and fence != baseline:
        tally.add("fence", f"the fence is {_shown(fence)}, and no commit is on record", [fence])
    return tally


def lanes(ranges: Sequence[CommittedRange], baseline: int | None, fence: int | None) -> list[Lane]:
    """The lanes of one partition, oldest first, from its ranges in the order of their commits.

    The first lane reaches down to the baseline and the last one up to the fence, whatever the ranges cover.
    """
    out: list[Lane] = []
    for one in ranges:
        if out and out[-1].topic_epoch == one.topic_epoch:
            begin, end = min(out[-1].begin, one.start), max(out[-1].end, one.end)
            out[-1] = replace(out[-1], begin=begin, end=end)
        else:
            out.append(Lane(one.topic_id, one.topic_epoch, one.partition, one.start, one.end, one.end))
    if out and baseline is not None:
        out[0] = replace(out[0], begin=baseline)
    if out and fence is not None:
        out[-1] = replace(out[-1], end=max(out[-1].begin, fence))
    readable = [min([one.end, *(later.begin for later in out[at + 1 :])]) for at, one in enumerate(out)]
    return [replace(one, readable_below=below) for one, below in zip(out, readable, strict=True)]


def _leading(losses: Sequence[tuple[int, int]], offset: int, wanted: int) -> int:
    """How many of the accepted losses, in their order, it takes to get from one offset to the other; 0 when they do not
    lead there. A second loss may come before anything is read behind the first."""
    place = offset
    for at, (first, following) in enumerate(losses):
        if first == place:
            place = following
            if place == wanted:
                return at + 1
    return 0


def _shown(fence: int | None) -> str:
    return "not set" if fence is None else f"at {fence}"
