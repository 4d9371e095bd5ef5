"""What Kafka lost before it landed, found and put on record when a person accepts it."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from k2_dagster.errors import (
    InputLost,
    LogShrunk,
    LossUnseen,
    NotInitialized,
    RetentionOverrun,
    TerminalError,
    TopicRecreated,
)
from k2_dagster.ingest.lost import Cause, Lost, find_lost, topic_is_gone
from k2_dagster.ingest.resume import resume
from k2_dagster.kafka.topics import describe, watermarks
from k2_dagster.lake.catalog import close_catalog, load_table, open_catalog
from k2_dagster.lake.fence import read_fence
from k2_dagster.schemas.datasets import table_name
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.positions import AcceptedLoss, known_incarnations
from k2_dagster.state.positions import accept_losses as record_losses

CAUSES: Mapping[type[InputLost], Cause] = {
    RetentionOverrun: "retention_overrun",
    LogShrunk: "log_shrunk",
    TopicRecreated: "topic_recreated",
}
# Enough that no two sets of losses that one person meets have the same, and short enough to copy.
TOKEN_CHARACTERS = 12
# A topic has a few hundred partitions at most, and each loses once; more rounds would be a loop.
MAX_LOSSES = 10_000


def seen_losses(settings: Settings, exchange: str, dataset: str) -> list[Lost]:
    """What `accept_losses` would accept now. Raises NotInitialized, InputLost (the topic is gone), transient errors."""
    load_profiles(settings.profiles).exchange(exchange)
    topic, table = topic_name(dataset, exchange), table_name(dataset)
    database, catalog = Database(settings), open_catalog(settings)
    try:
        vector = read_fence(load_table(catalog, table).metadata).vector
        incarnations = known_incarnations(database, topic)
        state = describe(settings, [topic]).get(topic)
        if state is None:
            raise topic_is_gone(topic, table, incarnations, vector)
        marks = watermarks(settings, topic, state.partitions)
        return find_lost(database, table, topic, state.topic_id, incarnations, vector, marks)
    finally:
        close_catalog(catalog)
        database.close()


def losses_token(losses: Sequence[Lost]) -> str:
    """A short name for exactly these losses: who has seen them may accept them by it."""
    return hashlib.sha256(repr(sorted(losses)).encode()).hexdigest()[:TOKEN_CHARACTERS]


def accept_losses(
    settings: Settings,
    exchange: str,
    dataset: str,
    *,
    accepted_by: str,
    reason: str,
    expected: Collection[Lost] | None = None,
) -> list[dict[str, Any]]:
    """Accept every loss that keeps the stream from resuming. Returns one record per lost range; empty if none.

    With `expected`, those that somebody has seen, a loss that is not among them is refused (LossUnseen); what was
    accepted before it stays so. Raises NotInitialized, ConfigurationError, or a transient error.
    """
    profiles = load_profiles(settings.profiles)
    profiles.exchange(exchange)
    database, catalog = Database(settings), open_catalog(settings)
    accepted: list[dict[str, Any]] = []
    try:
        load_table(catalog, table_name(dataset))
        for _ in range(MAX_LOSSES):
            try:
                resume(settings, catalog, database, exchange, dataset, profiles)
            except InputLost as error:
                if type(error) not in CAUSES:
                    raise
                found = _lost(dataset, error, accepted_by, reason)
                _refuse_unseen(found, expected)
                _refuse_again(error, found, accepted)
                record_losses(database, found, begins_epoch=isinstance(error, LogShrunk))
                accepted += [asdict(loss) for loss in found]
                continue
            return accepted
        raise NotInitialized(f"{exchange}/{dataset}: more than {MAX_LOSSES} losses", advice="look at the topic first")
    finally:
        close_catalog(catalog)
        database.close()


def _lost(dataset: str, error: InputLost, accepted_by: str, reason: str) -> list[AcceptedLoss]:
    fields = error.fields
    ranges = (
        [(int(key.rsplit(":", 1)[1]), offset, offset) for key, offset in fields["ranges"].items()]
        if isinstance(error, TopicRecreated)
        else [(fields["partition"], fields["first_offset"], fields["next_offset"])]
    )
    return [
        AcceptedLoss(
            table_name=table_name(dataset),
            topic=fields["topic"],
            topic_id=fields["old_topic_id"] if isinstance(error, TopicRecreated) else fields["topic_id"],
            partition=partition,
            first_offset=first,
            next_offset=following,
            cause=CAUSES[type(error)],
            accepted_by=accepted_by,
            reason=reason,
        )
        for partition, first, following in ranges
    ]


def _refuse_unseen(found: Sequence[AcceptedLoss], expected: Collection[Lost] | None) -> None:
    for loss in found:
        one = Lost(loss.cause, loss.topic, loss.topic_id, loss.partition, loss.first_offset, loss.next_offset)  # type: ignore[arg-type]
        if expected is not None and one not in expected:
            raise LossUnseen(
                f"what is lost has changed since it was shown: {one}",
                advice="look again: `k2 ingest accept-loss` shows what it would accept",
            )


def _refuse_again(error: InputLost, found: Sequence[AcceptedLoss], before: Sequence[Mapping[str, Any]]) -> None:
    if any(asdict(loss) in before for loss in found):
        raise TerminalError(
            f"{error.message}: this was accepted a moment ago, and is still in the way",
            advice="report it: what was accepted should be behind the stream",
        )
