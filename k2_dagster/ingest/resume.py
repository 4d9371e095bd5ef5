"""Where to go on: the fence, checked against Kafka, and the state that belongs to it (DESIGN D5, D6).

1. take over  both tables say that the stream is judged by our rules: what a writer with others has in hand is void
2. settle     fold what has landed into the control database
3. identify   the topic has the partitions of its profile, and the id that the fence was made with
4. bound      every start lies between Kafka's earliest and end offsets
5. restore    the tracker state of the attempt that the head names
6. hold       what quarantine already holds beyond the data table's fence
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from k2_dagster.errors import FenceMoved, LogShrunk, RetentionOverrun, TerminalError, TopicRecreated
from k2_dagster.ingest.lost import topic_is_gone
from k2_dagster.ingest.outcome import Held, Topic
from k2_dagster.ingest.terms import terms_of
from k2_dagster.ingest.tracker import Tracker
from k2_dagster.kafka.topics import count_changed, describe, watermarks
from k2_dagster.lake.catalog import load_table, translated_errors
from k2_dagster.lake.fence import Fence, Rules, position_key, read_fence
from k2_dagster.lake.settle import settle_lineage
from k2_dagster.lake.takeover import take_over
from k2_dagster.schemas.datasets import table_name
from k2_dagster.schemas.profiles import ExchangeProfile, Profiles
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from k2_dagster.state.attempts import attempt_state
from k2_dagster.state.breakers import NO_BREAKERS, Breakers, read_breakers
from k2_dagster.state.database import Database
from k2_dagster.state.positions import (
    behind_losses,
    known_incarnations,
    pending_losses,
    read_baselines,
    read_losses,
    record_baselines,
    topic_epoch,
)
from k2_dagster.state.refused_schemas import refusals_digest, refused_schema_ids

QUARANTINE_TABLE = table_name("quarantine")
STOP_ADVICE = "`k2 ingest accept-loss` puts on record who accepts the loss and goes on behind it"


@dataclass
class Position:
    """Where one stream (dataset of an exchange) is, and everything the loop needs to go on from there.

    `starts` is where to read on, and `ends` up to where, of the partitions that are not halted; `expected` is what the
    data table's fence shows (None: nothing yet) of all, which differs from the start after an accepted loss.
    `quarantine_expected` is the same for the quarantine table.
    """

    exchange: str
    dataset: str
    topic: Topic
    starts: dict[int, int]
    ends: dict[int, int]
    expected: dict[str, int | None]
    quarantine_expected: dict[str, int | None]
    previous_id: str | None
    quarantine_previous_id: str | None
    rules: Rules
    refused_schemas: frozenset[int]
    tracker: Tracker
    held: Held = field(default_factory=Held)
    breakers: Breakers = NO_BREAKERS

    @property
    def partitions(self) -> Set[int]:
        """Every partition of the topic, halted or not."""
        return self.starts.keys() | self.breakers.halted

    @property
    def stream(self) -> str:
        """Key of the stream in a fence's heads."""
        return f"{self.exchange}/{self.dataset}"

    @property
    def table(self) -> str:
        """The data table's name."""
        return table_name(self.dataset)


def resume(
    settings: Settings,
    catalog: Catalog,
    database: Database,
    exchange: str,
    dataset: str,
    profiles: Profiles,
) -> Position:
    """Find the position of a stream.

    Raises NotInitialized (no topic or table), PartitionCountChanged, TopicRecreated, RetentionOverrun, LogShrunk,
    FenceDisagrees, RulesDiffer, FenceMoved (another writer went on meanwhile), or another transient error.
    """
    topic, stream, profile = topic_name(dataset, exchange), f"{exchange}/{dataset}", profiles.exchange(exchange)
    refused = refused_schema_ids(database)
    rules = Rules(profiles.rules_version, profile.verdict_digest(dataset), refusals_digest(refused))
    # the data table first: from then on nothing of another writer lands there, and what it still put into quarantine
    # until we are told there too is what we hold
    data = take_over(catalog, database, table_name(dataset), stream, rules)  # Step 1
    quarantine = take_over(catalog, database, QUARANTINE_TABLE, stream, rules)
    for table in (data, quarantine):  # Step 2
        settle_lineage(database, ".".join(table.name()), table.metadata)
    fence, quarantine_fence = read_fence(data.metadata), read_fence(quarantine.metadata)
    state = describe(settings, [topic], database.stop).get(topic)  # Step 3
    if state is None:
        raise topic_is_gone(topic, table_name(dataset), known_incarnations(database, topic), fence.vector)
    changed = count_changed({topic: profile.partitions_of(dataset)}, {topic: state.partitions})
    if changed is not None:
        raise changed
    _check_incarnation(database, fence, table_name(dataset), topic, state.topic_id)
    epoch = topic_epoch(database, topic, state.topic_id, state.partitions)
    marks = watermarks(settings, topic, state.partitions, database.stop)  # Step 4
    starts = _starts(database, fence, table_name(dataset), topic, state.topic_id, marks)
    baselines = read_baselines(database, table_name(dataset), state.topic_id)
    strict = frozenset(partition for partition, offset in baselines.items() if offset == 0)
    breakers = read_breakers(database, exchange, dataset, epoch)
    keys = {partition: position_key(state.topic_id, partition) for partition in starts}
    starts = {partition: at for partition, at in starts.items() if partition not in breakers.halted}
    return Position(
        exchange=exchange,
        dataset=dataset,
        topic=Topic(topic, state.topic_id, epoch, strict),
        starts=starts,
        ends={partition: marks[partition][1] for partition in starts},
        expected={key: fence.vector.get(key) for key in keys.values()},
        quarantine_expected={key: quarantine_fence.vector.get(key) for key in keys.values()},
        previous_id=fence.heads.get(stream),
        quarantine_previous_id=quarantine_fence.heads.get(stream),
        rules=rules,
        refused_schemas=refused,
        tracker=_tracker(catalog, database, stream, dataset, fence.heads.get(stream), profile),  # Step 5
        held=_held(quarantine, quarantine_fence, topic, epoch, keys, starts),  # Step 6
        breakers=breakers,
    )


def _check_incarnation(database: Database, fence: Fence, table: str, topic: str, topic_id: str) -> None:
    known = known_incarnations(database, topic)
    if topic_id in known or not known:
        return
    for one in known:
        # a partition that was looked at and from which nothing has landed yet has a baseline only
        begun = {position_key(one, number): offset for number, offset in read_baselines(database, table, one).items()}
        landed = {key: offset for key, offset in fence.vector.items() if key.startswith(f"{one}:")}
        ranges = begun | landed
        if not ranges:
            continue
        if not any(loss["cause"] == "topic_recreated" for loss in read_losses(database, table, one)):
            raise TopicRecreated(
                f"{topic} has id {topic_id}; {table} was filled from id {one} up to {_show(ranges)}",
                advice=f"what the old topic held beyond that is gone. {STOP_ADVICE}",
                topic=topic,
                topic_id=topic_id,
                old_topic_id=one,
                ranges=ranges,
            )


def _starts(
    database: Database,
    fence: Fence,
    table: str,
    topic: str,
    topic_id: str,
    marks: Mapping[int, tuple[int, int]],
) -> dict[int, int]:
    baselines = read_baselines(database, table, topic_id)
    fresh = {
        partition: earliest
        for partition, (earliest, _) in marks.items()
        if fence.vector.get(position_key(topic_id, partition)) is None and partition not in baselines
    }
    record_baselines(database, table, topic_id, fresh, "first read: the earliest retained offset")
    accepted = pending_losses(database)
    starts = {}
    for partition, (earliest, end) in marks.items():
        at = fence.vector.get(position_key(topic_id, partition))
        start = at if at is not None else {**fresh, **baselines}[partition]
        start = behind_losses(accepted.get((table, topic_id, partition), ()), start)
        if start < earliest:
            raise RetentionOverrun(
                f"{topic} partition {partition}: offsets {start} to {earliest - 1} are no longer in Kafka "
                f"and in no table",
                advice=STOP_ADVICE,
                topic=topic,
                topic_id=topic_id,
                partition=partition,
                first_offset=start,
                next_offset=earliest,
            )
        if start > end:
            raise LogShrunk(
                f"{topic} partition {partition} ends at {end}, {table} holds it up to {start}: offsets {end} to "
                f"{start - 1} will be given to other messages",
                advice=STOP_ADVICE,
                topic=topic,
                topic_id=topic_id,
                partition=partition,
                first_offset=start,
                next_offset=end,
            )
        starts[partition] = start
    return starts


def _tracker(
    catalog: Catalog, database: Database, stream: str, dataset: str, head: str | None, profile: ExchangeProfile
) -> Tracker:
    terms = terms_of(profile)
    if head is None:
        return Tracker(terms)
    try:
        state = attempt_state(database, head)
    except TerminalError as error:
        now = read_fence(load_table(catalog, table_name(dataset)).metadata).heads.get(stream)
        if now == head:
            raise
        # settled by a writer that has gone on since we read the fence
        raise FenceMoved(f"{stream}: commit {now} came after {head}", advice="resume from the new head") from error
    return Tracker(terms) if state is None else Tracker.load(state, terms)


def _held(
    quarantine: Table, fence: Fence, topic: str, epoch: int, keys: Mapping[int, str], starts: Mapping[int, int]
) -> Held:
    reasons: dict[int, dict[int, str]] = {}
    for partition, start in starts.items():
        if fence.vector.get(keys[partition], 0) <= start:
            continue
        with translated_errors():
            found = quarantine.scan(
                row_filter=f"topic = '{topic}' and topic_epoch = {epoch} and kafka_partition = {partition} "
                f"and kafka_offset >= {start}",
                selected_fields=("kafka_offset", "reason"),
            ).to_arrow()
        offsets, named = found["kafka_offset"].to_pylist(), found["reason"].to_pylist()
        reasons[partition] = dict(zip(offsets, named, strict=True))
    return Held(reasons)


def _show(ranges: Mapping[str, int]) -> str:
    return ", ".join(f"partition {key.rsplit(':', 1)[1]} offset {offset}" for key, offset in sorted(ranges.items()))
