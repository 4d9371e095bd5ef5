"""Old commits, one a minute of each stream (DESIGN D6): a year of one a second is 30 million rows of 2 KB.

What stays true: ranges tile, and counts and digests are those of the tables (`merging.py`); `totals` are not touched; a
commit that a table's lineage still names keeps its row, and so does every stream's newest; what Dagster's mirror has
not reported yet is left alone, so each commit is counted once.
"""

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select, text

from k2_dagster.schemas.datasets import table_name as name_of_table
from k2_dagster.state.cursors import MIRROR, cursor_position, set_cursor
from k2_dagster.state.database import Database
from k2_dagster.state.locks import try_lock
from k2_dagster.state.merging import merged_commits
from k2_dagster.state.tables import commits

# Until then every commit is there: as-of and Dagster's checks see each.
WHOLE_DAYS = 30
# Commits looked at in one call: some tens of milliseconds, and twenty times what comes between two calls.
BATCH_COMMITS = 1_000
# How far thinning itself has come.
THINNED = "thinned"

_NEVER = 2**63 - 1
_REPLACE = text("""
    update k2.commits old set ranges = new.ranges, counts = new.counts, days = new.days, schema_ids = new.schema_ids,
           commit_seconds = new.commit_seconds
    from jsonb_to_recordset(cast(:merged as jsonb)) as new(
        id text, ranges jsonb, counts jsonb, days jsonb, schema_ids jsonb, commit_seconds float
    )
    where old.id = new.id
""")
_OLD = text(f"stamp < date_trunc('minute', now() - interval '{WHOLE_DAYS} days')")


def thin_commits(database: Database, table_name: str, named: Collection[str]) -> int:
    """Merge a batch of old commits of a table, those of a stream and minute into the last of them. Returns how many
    rows are gone. `named` are the ids that the table's lineage names.

    Two at once are no harm: the second does nothing. Raises DatabaseUnavailable.
    """
    with database.begin() as connection:
        if not try_lock(connection, f"k2:thin:{table_name}"):
            return 0
        batch = _batch(connection, table_name, named)
        if not batch:
            return 0
        tile = table_name != name_of_table("quarantine")
        groups = [group for group in _groups(batch) if len(group) > 1]
        merged = [merged_commits(group, tile=tile) for group in groups]
        gone = [one["id"] for group in groups for one in group[:-1]]
        if gone:
            connection.execute(delete(commits).where(commits.c.id.in_(gone)))
            connection.execute(_REPLACE, {"merged": json.dumps(merged)})
        set_cursor(connection, THINNED, table_name, int(batch[-1]["position"]))
    return len(gone)


def _batch(connection: Connection, table_name: str, named: Collection[str]) -> Sequence[Any]:
    """Old commits in the order of their positions, cut where a minute ends."""
    done = cursor_position(connection, THINNED, table_name) or 0
    mirrored = cursor_position(connection, MIRROR, table_name)
    query = (
        select(commits)
        .where(
            commits.c.table_name == table_name,
            commits.c.position > done,
            commits.c.position <= (_NEVER if mirrored is None else mirrored),
            _OLD,
        )
        .order_by(commits.c.position)
        .limit(BATCH_COMMITS)
    )
    found = connection.execute(query).mappings().all()
    first_named = next((at for at, one in enumerate(found) if one["id"] in named), None)
    end = len(found) if first_named is None else first_named
    if end == len(found) and len(found) < BATCH_COMMITS and mirrored is None:
        return found
    return _whole_minutes(found, end)


def _whole_minutes(found: Sequence[Any], end: int) -> Sequence[Any]:
    """Without the minute that the cut goes through; all of it, where there is only that one in a full batch."""
    if not end:
        return []
    cut = _minute(found[min(end, len(found) - 1)]["stamp"])
    kept = [one for one in found[:end] if _minute(one["stamp"]) < cut]
    return kept if kept or end < BATCH_COMMITS else found[:end]


def _groups(batch: Sequence[Any]) -> list[list[Any]]:
    """Neighbouring commits of one stream and minute, of the same days, under the same rules and code, oldest first.

    Only of the same days: what Dagster has reported of a day is told by the position of the day's newest commit, and a
    day must not come with a later position than it had.
    """
    out: list[list[Any]] = []
    newest: dict[tuple[str, str], tuple[tuple[Any, ...], list[Any]]] = {}
    for one in batch:
        stream = one["exchange"], one["dataset"]
        key = (_minute(one["stamp"]), sorted(one["days"]), one["rules_version"], one["code_version"])
        known = newest.get(stream)
        if known is not None and known[0] == key:
            known[1].append(one)
            continue
        newest[stream] = key, [one]
        out.append(newest[stream][1])
    return out


def _minute(stamp: datetime) -> datetime:
    return stamp.replace(second=0, microsecond=0)
