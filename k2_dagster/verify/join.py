"""What only the rows of a whole stream can show: repeated identities, false duplicates, rows that belong nowhere."""

from collections.abc import Sequence

from k2_dagster.verify.compare import Tally
from k2_dagster.verify.partition import Partition
from k2_dagster.verify.records import Records
from k2_dagster.verify.staging import Staging
from k2_dagster.verify.tiling import Lane

DIGEST_MODULUS = 2**64


def repeated_identities(staging: Staging, tally: Tally) -> None:
    """Identities that two data rows have."""
    count, some = staging.repeated_identities()
    tally.add("duplicated", "an identity that two data rows have", some, count)
    count, some = staging.repeated_returns()
    tally.add("duplicated", "a reprocessed message that landed twice", some, count)


def false_duplicates(parts: Sequence[Partition], staging: Staging, all_read: bool) -> None:
    """Quarantine rows called duplicates whose identity no data row has. `all_read`: see `Staging.unproven_claims`."""
    by_partition = {part.partition: part for part in parts}
    for partition, offsets in staging.unproven_claims(all_read).items():
        by_partition[partition].tally.add("wrong_duplicate", "no data row has the identity of this duplicate", offsets)


def strays(parts: Sequence[Partition], records: Records, staging: Staging, tally: Tally) -> None:
    """Rows beyond the fence, below the baseline, or of an epoch or partition that no commit knows."""
    lanes = {(lane.topic_epoch, lane.partition): (part, lane) for part in parts for lane in part.lanes}
    for table in ("data", "quarantine"):
        for epoch, partition in staging.places(table):
            part, lane = lanes.get((epoch, partition), (None, None))
            begin, end = (lane.begin, lane.end) if lane is not None else (0, 0)
            if table == "quarantine":
                begin, end = _held_ahead(parts, records, epoch, partition, lane)
            count, some = staging.outside(table, epoch, partition, begin, end)
            known = f"outside offsets {begin} to {end - 1}" if begin < end else "that no commit covers"
            where = part.tally if part is not None else tally
            where.add("extra", f"a {table} row {known} of epoch {epoch}, partition {partition}", some, count)


def quarantine_commits(part: Partition, records: Records, staging: Staging) -> None:
    """Whether the quarantine table has what its own commits appended, and its fence is where they end.

    Its commits neither tile (only batches with refused messages make one) nor exclude each other (after a crash a
    range is gone over again), so they are compared as one sum per epoch.
    """
    mine = [
        one for one in records.quarantine_ranges if (one.topic_id, one.partition) == (part.topic_id, part.partition)
    ]
    end = max((one.end for one in mine), default=None)
    if end != part.quarantine_fence:
        part.tally.add("fence", f"the quarantine commits end at {end}, their fence is {part.quarantine_fence}", [end])
    for epoch in sorted({one.topic_epoch for one in mine}):
        of_epoch = [one for one in mine if one.topic_epoch == epoch]
        rows = sum(one.quarantined for one in of_epoch)
        digest = sum(int(one.quarantine_digest, 16) for one in of_epoch) % DIGEST_MODULUS
        found_rows, found_digest = staging.total("quarantine", epoch, part.partition)
        if found_rows != rows:
            said = f"{found_rows} rows, {rows} committed"
            part.tally.add("count", f"the quarantine table and its commits disagree, epoch {epoch}", [said])
        if found_digest != digest:
            part.tally.add(
                "digest", f"the quarantine table and its commits disagree, epoch {epoch}", [f"epoch {epoch}"]
            )


def _held_ahead(
    parts: Sequence[Partition], records: Records, epoch: int, partition: int, lane: Lane | None
) -> tuple[int, int]:
    """Offsets that quarantine may hold: it commits first, so in the newest epoch it may be ahead of the data."""
    begin, end = (lane.begin, lane.end) if lane is not None else (0, 0)
    for part in parts:
        if part.partition != partition or records.epochs.get(part.topic_id) != epoch:
            continue
        if part.quarantine_fence is not None:
            begin = begin if lane is not None else (part.baseline or 0)
            end = max(end, part.quarantine_fence)
    return begin, end
