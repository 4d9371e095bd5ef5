"""The fence: the Kafka position of a table, stored in the table (DESIGN D5).

Every ingest snapshot carries its commit id, its stamp and the whole next-offset vector; the same transaction writes
vector and id as a table property, for the day another engine has expired every snapshot of ours. A key of the vector
is `{topic id}:{partition}`: a recreated topic has another id and so another key.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from k2_dagster.errors import FenceDisagrees

OPERATION_KEY = "k2.op"
COMMIT_KEY = "k2.commit-id"
STAMP_KEY = "k2.stamp"
FENCE_KEY = "k2.fence"
INGEST = "ingest"

Vector = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that the verdicts on a stream depend on, beside its messages: the version of the rules, a digest of
    what the profile says of them, and one of the schema ids that a person has refused."""

    version: int
    profile: str
    refused: str


def position_key(topic_id: str, partition: int) -> str:
    """Key of one topic-partition in a vector."""
    return f"{topic_id}:{partition}"


@dataclass(frozen=True, slots=True)
class Fence:
    """Where a table is. `heads` names the last commit of each stream (`exchange/dataset`) that wrote to the table,
    `rules` by which rules the stream is judged since."""

    vector: Vector = field(default_factory=dict)
    commit_id: str | None = None
    heads: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, Rules] = field(default_factory=dict)
    snapshot_id: int | None = None
    stamp: datetime | None = None


@dataclass(frozen=True, slots=True)
class LandedSnapshot:
    """An ingest snapshot of the lineage."""

    snapshot_id: int
    commit_id: str
    stamp: datetime
    vector: Vector


def read_fence(metadata: TableMetadata) -> Fence:
    """The fence of a table's current head.

    Raises FenceDisagrees when the newest ingest snapshot and the table property name different commits: somebody
    rolled the table back or wrote to it, and guessing which one is right would lose or double rows.
    """
    stored = metadata.properties.get(FENCE_KEY)
    prop = json.loads(stored) if stored else {}
    newest = next(ingest_lineage(metadata), None)
    if newest is None:
        if metadata.current_snapshot() is None and prop.get("commit_id"):
            raise _disagree("none: the table has no snapshot", prop["commit_id"])
        return Fence(prop.get("vector", {}), prop.get("commit_id"), prop.get("heads", {}), _rules(prop))
    if prop.get("commit_id") != newest.commit_id:
        raise _disagree(newest.commit_id, prop.get("commit_id"))
    return Fence(newest.vector, newest.commit_id, prop["heads"], _rules(prop), newest.snapshot_id, newest.stamp)


def ingest_lineage(metadata: TableMetadata) -> Iterator[LandedSnapshot]:
    """Ingest snapshots from the head back, as far as they are kept; other snapshots are passed over."""
    snapshot = metadata.current_snapshot()
    while snapshot is not None:
        landed = _landed(snapshot)
        if landed is not None:
            yield landed
        parent = snapshot.parent_snapshot_id
        snapshot = metadata.snapshot_by_id(parent) if parent is not None else None


def _landed(snapshot: Snapshot) -> LandedSnapshot | None:
    summary = snapshot.summary
    if summary is None or summary.get(OPERATION_KEY) != INGEST:
        return None
    return LandedSnapshot(
        snapshot_id=snapshot.snapshot_id,
        commit_id=str(summary[COMMIT_KEY]),
        stamp=datetime.fromisoformat(str(summary[STAMP_KEY])),
        vector=json.loads(str(summary[FENCE_KEY])),
    )


def next_stamp(fence: Fence, now: datetime | None = None) -> datetime:
    """The next commit's stamp: now, but always after the head's, whatever the clocks say."""
    now = now or datetime.now(UTC)
    return now if fence.stamp is None or now > fence.stamp else fence.stamp + timedelta(microseconds=1)


def moved_keys(fence: Fence, starts: Mapping[str, int | None]) -> list[str]:
    """Keys whose position is not the one that the writer built on; None means "not in the fence yet"."""
    return [key for key, start in starts.items() if fence.vector.get(key) != start]


def merged(fence: Fence, ends: Vector, stream: str, commit_id: str, rules: Rules) -> Fence:
    """The fence after a commit of a stream."""
    return replace(
        fence,
        vector={**fence.vector, **ends},
        commit_id=commit_id,
        heads={**fence.heads, stream: commit_id},
        rules={**fence.rules, stream: rules},
    )


def snapshot_properties(commit_id: str, stamp: datetime, vector: Vector) -> dict[str, str]:
    """Summary keys of an ingest snapshot."""
    return {
        OPERATION_KEY: INGEST,
        COMMIT_KEY: commit_id,
        STAMP_KEY: stamp.isoformat(timespec="microseconds"),
        FENCE_KEY: json.dumps(dict(vector), separators=(",", ":"), sort_keys=True),
    }


def table_properties(fence: Fence) -> dict[str, str]:
    """Table property written in the same transaction."""
    rules = {stream: asdict(one) for stream, one in fence.rules.items()}
    body = {"commit_id": fence.commit_id, "vector": dict(fence.vector), "heads": dict(fence.heads), "rules": rules}
    return {FENCE_KEY: json.dumps(body, separators=(",", ":"), sort_keys=True)}


def _rules(stored: Mapping[str, Any]) -> dict[str, Rules]:
    return {stream: Rules(**one) for stream, one in stored.get("rules", {}).items()}


def _disagree(snapshot: str, prop: str | None) -> FenceDisagrees:
    return FenceDisagrees(
        f"the newest ingest snapshot names commit {snapshot}, the table property names {prop or 'none'}",
        advice="somebody rolled the table back or wrote to it: see docs/recovery.md, 'The fence disagrees'",
        snapshot_commit=snapshot,
        property_commit=prop,
    )
