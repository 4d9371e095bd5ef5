"""How far tables are behind their topics: Kafka's ends beside the fences, for many streams in one look."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pyiceberg.catalog import Catalog

from k2_dagster.errors import K2Error, LogShrunk
from k2_dagster.kafka.ends import TopicEnd, TopicEnds
from k2_dagster.kafka.reader import open_reader
from k2_dagster.kafka.topics import count_changed
from k2_dagster.lake.catalog import close_catalog, load_table, open_catalog
from k2_dagster.lake.fence import Vector, position_key, read_fence
from k2_dagster.schemas.datasets import table_name
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from k2_dagster.state.breakers import halted_partitions
from k2_dagster.state.database import Database
from k2_dagster.state.positions import PendingLosses, behind_losses, pending_losses

# The oldest unlanded message is the first one after the fence; a broker that answers at all gives it within this.
OLDEST_TIMEOUT_SECONDS = 5.0
# Of a partition nothing but its first message is wanted.
OLDEST_MESSAGES = 1


@dataclass(frozen=True, slots=True)
class StreamLag:
    """One dataset of one exchange. `fence` is where its table will be read on from (of a partition without a fence:
    the earliest retained offset), `ends` is the offset after the last message; both per partition.

    `lag_messages` counts offsets; where a topic has transactions, their markers are among them. Those of partitions
    that are halted at a critical gap are `halted_messages`: nobody may take them yet.
    """

    exchange: str
    dataset: str
    topic: str
    lag_messages: int
    fence: Mapping[int, int]
    ends: Mapping[int, int]
    halted_messages: int = 0

    @property
    def unlanded_messages(self) -> int:
        """All that is behind the fence, halted or not."""
        return self.lag_messages + self.halted_messages


@dataclass(frozen=True, slots=True)
class LagReport:
    """What one look found. `errors` says, by topic, why its lag could not be told."""

    lags: list[StreamLag] = field(default_factory=list)
    errors: dict[str, K2Error] = field(default_factory=dict)


class LagReader:
    """Looks at many streams, again and again: it keeps its Kafka client. Thread-safe."""

    def __init__(self, settings: Settings, profiles: Profiles, catalog: Catalog, database: Database) -> None:
        self._profiles = profiles
        self._catalog = catalog
        self._database = database
        self._ends = TopicEnds(settings)

    def read(self, exchanges: Iterable[str]) -> LagReport:
        """The lag of every stream of the exchanges. Each table's metadata is loaded once, Kafka asked in two requests.

        A topic or table that is broken is reported under `errors`. Raises DatabaseUnavailable and NotInitialized
        (no control schema), ConfigurationError (unknown exchange).
        """
        streams = [(name, dataset) for name in exchanges for dataset in self._profiles.exchange(name).datasets]
        vectors = {dataset: self._vector(dataset) for dataset in sorted({dataset for _, dataset in streams})}
        found = self._ends.read(topic_name(dataset, exchange) for exchange, dataset in streams)
        report = LagReport()
        known: list[tuple[str, str, TopicEnd, dict[int, int]]] = []
        accepted = pending_losses(self._database)
        for exchange, dataset in streams:
            topic, vector = topic_name(dataset, exchange), vectors[dataset]
            end = self._with_declared_count(exchange, dataset, found[topic])
            if isinstance(end, K2Error):
                report.errors[topic] = end
            elif isinstance(vector, K2Error):
                report.errors[topic] = vector
            else:
                known.append((exchange, dataset, end, _fence(dataset, end, vector, accepted)))
        self._fill_in_earliest([(end, fence) for _, _, end, fence in known], report)
        halted = halted_partitions(self._database)
        for exchange, dataset, end, fence in known:
            if end.topic not in report.errors:
                _judge(exchange, dataset, end, fence, halted.get((end.topic, end.topic_id), frozenset()), report)
        return report

    def _with_declared_count(self, exchange: str, dataset: str, end: TopicEnd | K2Error) -> TopicEnd | K2Error:
        """What was found, unless the topic has not the partitions that its profile declares."""
        if isinstance(end, K2Error):
            return end
        declared = self._profiles.exchange(exchange).partitions_of(dataset)
        return count_changed({end.topic: declared}, {end.topic: len(end.ends)}) or end

    def _vector(self, dataset: str) -> Vector | K2Error:
        try:
            return read_fence(load_table(self._catalog, table_name(dataset)).metadata).vector
        except K2Error as error:
            return error

    def _fill_in_earliest(self, fences: list[tuple[TopicEnd, dict[int, int]]], report: LagReport) -> None:
        """Partitions that no table has read yet start at the earliest retained offset."""
        unread = {
            (end.topic, partition): fence for end, fence in fences for partition in end.ends if partition not in fence
        }
        for (topic, partition), first in self._ends.earliest(unread).items():
            if isinstance(first, K2Error):
                report.errors[topic] = first
            else:
                unread[topic, partition][partition] = first


def stream_lags(settings: Settings, profiles: Profiles, exchanges: Iterable[str]) -> list[StreamLag]:
    """The lag of every stream of the exchanges, once. Raises the first error that keeps one from being told."""
    database, catalog = Database(settings), open_catalog(settings)
    try:
        report = LagReader(settings, profiles, catalog, database).read(exchanges)
    finally:
        close_catalog(catalog)
        database.close()
    for error in report.errors.values():
        raise error
    return report.lags


def oldest_unlanded(settings: Settings, lag: StreamLag) -> datetime | None:
    """Kafka's time (UTC) of the oldest message behind the fence, None when nothing waits. Raises KafkaUnavailable."""
    starts = {partition: at for partition, at in lag.fence.items() if at < lag.ends[partition]}
    found = [_first_time(settings, lag.topic, partition, start) for partition, start in starts.items()]
    times = [one for one in found if one is not None]
    return datetime.fromtimestamp(min(times) / 1000, UTC) if times else None


def _first_time(settings: Settings, topic: str, partition: int, start: int) -> int | None:
    reader = open_reader(settings)
    try:
        reader.assign(topic, {partition: start})
        batch = reader.read(OLDEST_MESSAGES, OLDEST_TIMEOUT_SECONDS)
        return int(batch.timestamp_ms[0]) if len(batch) else None
    finally:
        reader.close()


def _fence(dataset: str, end: TopicEnd, vector: Vector, accepted: PendingLosses) -> dict[int, int]:
    fence = {}
    for partition in end.ends:
        at = vector.get(position_key(end.topic_id, partition))
        if at is not None:
            fence[partition] = behind_losses(accepted.get((table_name(dataset), end.topic_id, partition), ()), at)
    return fence


def _judge(
    exchange: str, dataset: str, end: TopicEnd, fence: Mapping[int, int], halted: Set[int], report: LagReport
) -> None:
    for partition, last in end.ends.items():
        if fence[partition] > last:
            report.errors[end.topic] = LogShrunk(
                f"{end.topic} partition {partition} ends at {last}, {table_name(dataset)} holds it up to "
                f"{fence[partition]}",
                advice="`k2 ingest accept-loss` puts on record who accepts the loss and goes on behind it",
                topic=end.topic,
                partition=partition,
            )
            return
    lags = {partition: last - fence[partition] for partition, last in end.ends.items()}
    held = sum(lag for partition, lag in lags.items() if partition in halted)
    report.lags.append(StreamLag(exchange, dataset, end.topic, sum(lags.values()) - held, fence, end.ends, held))
