"""What Kafka lost before it landed, found and put on record when a person accepts it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from k2_dagster.errors import InputLost, LogShrunk, NotInitialized, RetentionOverrun, TerminalError, TopicRecreated
from k2_dagster.ingest.resume import resume
from k2_dagster.lake.catalog import close_catalog, load_table, open_catalog
from k2_dagster.schemas.datasets import table_name
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.positions import AcceptedLoss
from k2_dagster.state.positions import accept_losses as record_losses

CAUSES = {RetentionOverrun: "retention_overrun", LogShrunk: "log_shrunk", TopicRecreated: "topic_recreated"}
# A topic has a few hundred partitions at most, and each loses once; more rounds would be a loop.
MAX_LOSSES = 10_000


def accept_losses(
    settings: Settings, exchange: str, dataset: str, *, accepted_by: str, reason: str
) -> list[dict[str, Any]]:
    """Accept every loss that keeps the stream from resuming. Returns one record per lost range; empty if none.

    Raises NotInitialized, ConfigurationError, or a transient error; never accepts what nobody has seen.
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
                found = _record(database, dataset, error, accepted_by, reason, accepted)
                accepted += [asdict(loss) for loss in found]
                continue
            return accepted
        raise NotInitialized(f"{exchange}/{dataset}: more than {MAX_LOSSES} losses", advice="look at the topic first")
    finally:
        close_catalog(catalog)
        database.close()


def _record(
    database: Database,
    dataset: str,
    error: InputLost,
    accepted_by: str,
    reason: str,
    before: Sequence[Mapping[str, Any]],
) -> list[AcceptedLoss]:
    fields = error.fields
    cause = CAUSES[type(error)]
    ranges = (
        [(int(key.rsplit(":", 1)[1]), offset, offset) for key, offset in fields["ranges"].items()]
        if isinstance(error, TopicRecreated)
        else [(fields["partition"], fields["first_offset"], fields["next_offset"])]
    )
    topic_id = fields["old_topic_id"] if isinstance(error, TopicRecreated) else fields["topic_id"]
    out = [
        AcceptedLoss(
            table_name=table_name(dataset),
            topic=fields["topic"],
            topic_id=topic_id,
            partition=partition,
            first_offset=first,
            next_offset=following,
            cause=cause,
            accepted_by=accepted_by,
            reason=reason,
        )
        for partition, first, following in ranges
    ]
    if any(asdict(loss) in before for loss in out):
        raise TerminalError(
            f"{error.message}: this was accepted a moment ago, and is still in the way",
            advice="report it: what was accepted should be behind the stream",
        )
    record_losses(database, out, begins_epoch=isinstance(error, LogShrunk))
    return out
