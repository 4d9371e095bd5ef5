"""What the control database and the tables' snapshots say: commits, baselines, accepted losses, fences.

The data table is pinned before the quarantine table: quarantine commits first, so whatever the pinned data table rests
on is in the pinned quarantine table.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table
from sqlalchemy import select

from k2_dagster.errors import FenceDisagrees
from k2_dagster.lake.catalog import load_table
from k2_dagster.lake.fence import Fence, ingest_lineage, read_fence
from k2_dagster.schemas.datasets import table_name
from k2_dagster.state.database import Database
from k2_dagster.state.tables import attempts, baselines, commits, losses, topics
from k2_dagster.verify.report import Finding
from k2_dagster.verify.tiling import CommittedRange

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class PinnedTable:
    """A table as it was at one moment: everything about it is read from this object.

    `until` is the stamp of its newest commit (None: no limit is known). `landed` are commits of its lineage that are
    not settled yet, oldest first.
    """

    name: str
    table: Table
    fence: Fence
    until: datetime | None
    landed: Sequence[Any]
    findings: Sequence[Finding]

    @property
    def readable(self) -> bool:
        """Whether there is a fence to judge by."""
        return all(one.fault != "fence" for one in self.findings)


@dataclass(slots=True)
class Records:
    """What is on record about one topic and table. A place is (topic id, partition).

    `ranges` and `quarantine_ranges` are in the order of their commits; `epochs` maps a topic id to its newest epoch.
    """

    ranges: list[CommittedRange] = field(default_factory=list)
    quarantine_ranges: list[CommittedRange] = field(default_factory=list)
    epochs: dict[str, int] = field(default_factory=dict)
    baselines: dict[Place, int] = field(default_factory=dict)
    losses: dict[Place, list[tuple[int, int]]] = field(default_factory=dict)


def pin_table(catalog: Catalog, database: Database, dataset: str) -> PinnedTable:
    """Load a table and what its lineage says. Raises NotInitialized, DatabaseUnavailable, WarehouseUnavailable."""
    name = table_name(dataset)
    table = load_table(catalog, name)
    try:
        fence = read_fence(table.metadata)
    except FenceDisagrees as error:
        return PinnedTable(name, table, Fence(), None, (), [Finding("fence", 1, str(error))])
    lineage = [one.commit_id for one in ingest_lineage(table.metadata)]
    with database.begin() as connection:
        settled = set(connection.execute(select(commits.c.id).where(commits.c.id.in_(lineage))).scalars())
        waiting = [one for one in reversed(lineage) if one not in settled]
        found = {
            row.id: row for row in connection.execute(select(attempts).where(attempts.c.id.in_(waiting))).mappings()
        }
        until = fence.stamp
        if until is None and fence.commit_id is not None:
            until = connection.execute(select(commits.c.stamp).where(commits.c.id == fence.commit_id)).scalar()
    unknown = tuple(one for one in waiting if one not in found)
    findings = [Finding("unrecorded", len(unknown), "landed without an attempt on record", unknown)] if unknown else []
    return PinnedTable(name, table, fence, until, [found[one] for one in waiting if one in found], findings)


def read_records(
    database: Database, data: PinnedTable, quarantine: PinnedTable, topic: str, exchange: str, dataset: str
) -> Records:
    """Everything on record about one stream, up to the pinned tables. Raises DatabaseUnavailable, NotInitialized."""
    out = Records()
    with database.begin() as connection:
        for row in connection.execute(select(topics).where(topics.c.topic == topic)):
            out.epochs[row.topic_id] = row.epoch
        for table, ranges in ((data, out.ranges), (quarantine, out.quarantine_ranges)):
            query = select(commits.c.id, commits.c.ranges).where(
                commits.c.table_name == table.name, commits.c.exchange == exchange, commits.c.dataset == dataset
            )
            if table.until is not None:
                query = query.where(commits.c.stamp <= table.until)
            # By stamp: it rises along the lineage, while two writers may settle in another order
            settled = list(connection.execute(query.order_by(commits.c.stamp)).mappings())
            mine = [row for row in table.landed if (row["exchange"], row["dataset"]) == (exchange, dataset)]
            ranges.extend(_ranges([*settled, *mine]))
        topic_ids = set(out.epochs) | {one.topic_id for one in out.ranges}
        for row in connection.execute(
            select(baselines).where(baselines.c.table_name == data.name, baselines.c.topic_id.in_(topic_ids))
        ):
            out.baselines[row.topic_id, row.partition] = row.first_offset
        for row in connection.execute(
            select(losses)
            .where(losses.c.table_name == data.name, losses.c.topic_id.in_(topic_ids))
            .order_by(losses.c.id)
        ):
            out.losses.setdefault((row.topic_id, row.partition), []).append((row.first_offset, row.next_offset))
    return out


def known_topics(database: Database) -> list[str]:
    """Every topic that anything landed from."""
    with database.begin() as connection:
        return list(connection.execute(select(topics.c.topic).distinct().order_by(topics.c.topic)).scalars())


def _ranges(rows: Iterable[Any]) -> list[CommittedRange]:
    seen: set[str] = set()
    out = []
    for row in rows:
        # One may be settled between the look at the lineage and this one
        if row["id"] in seen:
            continue
        seen.add(row["id"])
        out += [CommittedRange(row["id"], **{name: one[name] for name in _RANGE_NAMES}) for one in row["ranges"]]
    return out


_RANGE_NAMES = tuple(name for name in CommittedRange.__dataclass_fields__ if name != "commit_id")
