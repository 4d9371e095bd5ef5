"""Snapshot expiry as part of writing (DESIGN D10): commit time grows with the number of kept snapshots.

Only metadata is touched: data files of appends stay referenced by the newer snapshots. Only settled snapshots are
expired, or a landed commit could vanish before the control database knows of it; so the lineage is settled first.
"""

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table.metadata import TableMetadata

from k2_dagster.lake.catalog import load_table, translated_errors
from k2_dagster.lake.fence import ingest_lineage
from k2_dagster.lake.settle import settle_lineage
from k2_dagster.observability.points import reached
from k2_dagster.state.attempts import unsettled
from k2_dagster.state.database import Database
from k2_dagster.state.locks import table_lock
from k2_dagster.state.thinning import thin_commits

# Snapshots beyond the kept ones that may gather before an expiry is worth its commit.
EXPIRY_SLACK = 50


def expirable(metadata: TableMetadata) -> int:
    """How many snapshots expiry could remove if it kept none: all but the tagged ones and the head."""
    return len(metadata.snapshots) - len(metadata.refs)


def expiry_is_due(snapshots: int, keep: int) -> bool:
    """Whether so many snapshots (see `expirable`) are worth an expiry. A writer asks after each commit: the answer is
    in the table, so it does not matter how many commits one run, process or stream made of them."""
    return snapshots >= keep + EXPIRY_SLACK


def expire_snapshots(catalog: Catalog, database: Database, table_name: str, keep: int) -> int:
    """Expire what is settled, not tagged and beyond the newest `keep`, if enough has gathered. Returns how many.

    Old commits are thinned on the way: before, so that ids which only now leave the lineage are merged by the next one.
    """
    metadata = load_table(catalog, table_name).metadata
    if not expiry_is_due(expirable(metadata), keep):
        return 0
    thin_commits(database, table_name, {one.commit_id for one in ingest_lineage(metadata)})
    with table_lock(database, table_name):
        table = load_table(catalog, table_name)
        if not expiry_is_due(expirable(table.metadata), keep):
            return 0  # another writer was faster
        # the commit of a writer that died since would be kept, but behind a hole that no walk of the lineage crosses
        settle_lineage(database, table_name, table.metadata)
        doomed = _expirable(database, table.metadata, keep)
        if not doomed:
            return 0
        reached("expiry.before")
        try:
            with translated_errors():
                table.maintenance.expire_snapshots().by_ids(doomed).commit()
        except CommitFailedException:
            # somebody else committed: the next expiry will find the same snapshots
            return 0
    return len(doomed)


def _expirable(database: Database, metadata: TableMetadata, keep: int) -> list[int]:
    newest_first = sorted(metadata.snapshots, key=lambda one: one.sequence_number or 0, reverse=True)
    referenced = {ref.snapshot_id for ref in metadata.refs.values()}
    ingest = {one.snapshot_id: one.commit_id for one in ingest_lineage(metadata)}
    open_ids = set(unsettled(database, list(ingest.values())))
    return [
        one.snapshot_id
        for one in newest_first[keep:]
        if one.snapshot_id not in referenced and ingest.get(one.snapshot_id) not in open_ids
    ]
