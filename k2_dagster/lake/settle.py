"""Fold what a table's lineage names into the control database (DESIGN D6, `settle`). Idempotent."""

from collections.abc import Mapping

from pyiceberg.table.metadata import TableMetadata

from k2_dagster.lake.fence import ingest_lineage, read_fence
from k2_dagster.state.attempts import LandedCommit, settle, unsettled
from k2_dagster.state.database import Database


def settle_lineage(
    database: Database, table_name: str, metadata: TableMetadata, seconds: Mapping[str, float] | None = None
) -> int:
    """Settle every landed commit that is not settled yet, oldest first. Returns how many were new.

    `seconds` gives commit durations by commit id, for the commits that this process made. Commits are settled in
    lineage order, so the walk back stops at the first one that is.
    """
    read_fence(metadata)
    landed = [
        LandedCommit(one.commit_id, one.snapshot_id, one.stamp, (seconds or {}).get(one.commit_id))
        for one in ingest_lineage(metadata)
    ]
    missing = set(unsettled(database, [one.commit_id for one in landed]))
    return settle(database, table_name, [one for one in reversed(landed) if one.commit_id in missing])
