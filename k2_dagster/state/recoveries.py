"""Gaps that recovery may have to do with, with what was tried for each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, func, select

from k2_dagster.state.coverage_tables import breakers, gap_events
from k2_dagster.state.tables import gaps

# Gaps looked at in one query.
PAGE_GAPS = 500

# A partition of a topic's incarnation: dataset, epoch, partition.
Place = tuple[str, int, int]


def recoverable_gaps(connection: Connection, exchange: str) -> Iterator[dict[str, Any]]:
    """Gaps that may be asked for by themselves, or have been, oldest first, each with its `events`."""
    last = 0
    may_be = gaps.c.state.in_(("open", "requested")) & (gaps.c.numbering != "publisher")
    by_itself = (gaps.c.state == "requested") | ((gaps.c.level != "warn") & (gaps.c.cause != "quarantined"))
    while True:
        query = select(gaps).where(gaps.c.exchange == exchange, may_be, by_itself, gaps.c.id > last)
        page = [dict(row) for row in connection.execute(query.order_by(gaps.c.id).limit(PAGE_GAPS)).mappings()]
        yield from with_events(connection, page)
        if len(page) < PAGE_GAPS:
            return
        last = page[-1]["id"]


def with_events(connection: Connection, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `k2.gaps` with the `events` of each, oldest first."""
    by_gap: dict[int, list[dict[str, Any]]] = {row["id"]: [] for row in found}
    if by_gap:
        query = select(gap_events).where(gap_events.c.gap_id.in_(by_gap)).order_by(gap_events.c.id)
        for row in connection.execute(query).mappings():
            by_gap[row["gap_id"]].append(dict(row))
    return [{**row, "events": by_gap[row["id"]]} for row in found]


def count_attempts(connection: Connection, gap_ids: Sequence[int]) -> Mapping[int, int]:
    """How often each was asked for; those that never were are absent."""
    query = (
        select(gap_events.c.gap_id, func.count())
        .where(gap_events.c.gap_id.in_(gap_ids), gap_events.c.event == "request")
        .group_by(gap_events.c.gap_id)
    )
    return {int(row[0]): int(row[1]) for row in connection.execute(query)} if gap_ids else {}


def halted_places(connection: Connection, exchange: str) -> frozenset[Place]:
    """Partitions of an exchange that are not read on."""
    query = select(breakers.c.dataset, breakers.c.topic_epoch, breakers.c.kafka_partition).where(
        breakers.c.exchange == exchange, breakers.c.acknowledged_at.is_(None)
    )
    return frozenset((str(row[0]), int(row[1]), int(row[2])) for row in connection.execute(query))


def is_halted(gap: Mapping[str, Any], halted: frozenset[Place]) -> bool:
    """Whether a gap's partition is among them."""
    return (gap["dataset"], gap["topic_epoch"], gap["kafka_partition"]) in halted
