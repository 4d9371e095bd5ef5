"""The verification of one stream: one dataset of one exchange.

1. records   what the commits say, cut into partitions and lanes; whether they tile
2. bounds    the whole history, or the commits that a time window touches
3. stage     rows of the data and the quarantine table
4. compare   chunk by chunk with Kafka where it still has the messages; else with what the commits say
5. join      identities that are there twice, duplicates that are none, rows that belong nowhere
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime

from k2_dagster.kafka.registry import Registry
from k2_dagster.kafka.topics import TopicState
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.verify.compare import Tally
from k2_dagster.verify.consume import TopicReader
from k2_dagster.verify.identity import channel_streams, venue_streams
from k2_dagster.verify.join import false_duplicates, quarantine_commits, repeated_identities, strays
from k2_dagster.verify.lane import LaneProof
from k2_dagster.verify.messages import MessageChecks
from k2_dagster.verify.partition import Partition, Retained, partitions
from k2_dagster.verify.records import PinnedTable, Records, read_records
from k2_dagster.verify.report import StreamReport
from k2_dagster.verify.stage import (
    Bounds,
    Sample,
    StreamName,
    stage_data,
    stage_identities,
    stage_quarantine,
    stage_refused,
)
from k2_dagster.verify.staging import Staging, open_staging
from k2_dagster.verify.window import narrow_to_window
from k2_dagster.verify.wire import WireDecoder


@dataclass(frozen=True, slots=True)
class Ground:
    """What every stream of a verification stands on.

    `topics` are those that exist, `retained` what Kafka has of their partitions. Record times from `since` to before
    `until` are verified (None: no bound), and the values of `sample_messages` per stream (None: of all).
    """

    settings: Settings
    profiles: Profiles
    database: Database
    registry: Registry
    topics: Mapping[str, TopicState]
    retained: Mapping[str, Mapping[int, Retained]]
    since: datetime | None
    until: datetime | None
    sample_messages: int | None

    @property
    def windowed(self) -> bool:
        """Whether only a part of the history is asked for."""
        return self.since is not None or self.until is not None


@dataclass(frozen=True, slots=True)
class _Stream:
    ground: Ground
    report: StreamReport
    records: Records
    parts: list[Partition]
    data: PinnedTable
    quarantine: PinnedTable
    reader: TopicReader | None

    @property
    def bounds(self) -> Bounds:
        """What to stage: None for everything."""
        if not self.ground.windowed:
            return None
        return {(epoch, part.partition): bound for part in self.parts for epoch, bound in part.bounds.items()}


def verify_stream(
    ground: Ground, data: PinnedTable, quarantine: PinnedTable, exchange: str, dataset: str
) -> StreamReport:
    """Verify one stream up to the pinned tables.

    Raises transient errors, NotInitialized and VerificationFailed (deleted rows); what is wrong with the stream itself
    is in the report.
    """
    topic, declared = topic_name(dataset, exchange), WIRE_DATASETS[dataset]
    report = StreamReport(exchange, dataset, topic)
    if not (data.readable and quarantine.readable):
        return report
    records = read_records(ground.database, data, quarantine, topic, exchange, dataset)  # Step 1
    state = ground.topics.get(topic)
    retained = ground.retained.get(topic, {})
    live_id = state.topic_id if state is not None else None
    parts = partitions(records, data.fence.vector, quarantine.fence.vector, live_id, retained)
    needed = any(one.retained is not None and one.lanes for one in parts)
    with _reader(ground.settings, topic if needed else None) as reader:
        stream = _Stream(ground, report, records, parts, data, quarantine, reader)
        if ground.windowed:  # Step 2
            narrow_to_window(parts, data, declared, exchange, reader, ground.since, ground.until)
        profile = ground.profiles.exchanges.get(exchange)
        streams, channels = venue_streams(declared, profile), channel_streams(declared, profile)
        with open_staging(ground.settings, declared, streams, channels) as staging:
            _verify_staged(stream, staging)
    return report


def _verify_staged(stream: _Stream, staging: Staging) -> None:
    report, dataset = stream.report, WIRE_DATASETS[stream.report.dataset]
    tally, sample, quarantine_sample = Tally(), _sample(stream), _quarantine_sample(stream)
    name = StreamName(report.exchange, report.dataset, report.topic)
    stage_data(staging, stream.data, dataset, report.exchange, stream.bounds, sample)  # Step 3
    stage_quarantine(staging, stream.quarantine, name, stream.bounds, quarantine_sample, tally)
    checks = MessageChecks(dataset, report.exchange, WireDecoder(dataset, stream.ground.registry), staging)
    for part in stream.parts:  # Step 4
        for lane in part.lanes:
            LaneProof(part, lane, staging, stream.reader, checks, sample, quarantine_sample).run()
    repeated_identities(staging, tally)  # Step 5
    if stream.ground.windowed and staging.unproven_claims():
        stage_identities(staging, stream.data, dataset, report.exchange)
        stage_refused(staging, stream.quarantine, report.topic, report.exchange, report.dataset)
    proofs = {one.proof for part in stream.parts for one in part.report.proofs}
    false_duplicates(stream.parts, staging, all_read=not stream.ground.windowed and proofs <= {"offsets"})
    if not stream.ground.windowed:
        strays(stream.parts, stream.records, staging, tally)
        for part in stream.parts:
            quarantine_commits(part, stream.records, staging)
    report.findings = tally.findings()
    for part in stream.parts:
        part.report.findings = part.tally.findings()
    report.partitions = [one.report for one in stream.parts if one.lanes or one.report.findings]


def _sample(stream: _Stream) -> Sample:
    wanted = stream.ground.sample_messages
    readable = sum(
        following - first
        for part in stream.parts
        for lane in part.lanes
        for first, following, proof in part.segments(lane)
        if proof == "offsets"
    )
    share = 1.0 if wanted is None else min(1.0, wanted / max(1, readable))
    # Other offsets each time that the table has grown, the same ones while it has not
    return Sample(share if readable else 0.0, sum(part.fence or 0 for part in stream.parts))


def _quarantine_sample(stream: _Stream) -> Sample:
    """As many quarantine rows as rows: they are few, and each has bytes that nothing else can check."""
    wanted = stream.ground.sample_messages
    quarantined = sum(one.quarantined for part in stream.parts for one in part.ranges)
    share = 1.0 if wanted is None else min(1.0, wanted / max(1, quarantined))
    return Sample(share, sum(part.quarantine_fence or 0 for part in stream.parts))


@contextmanager
def _reader(settings: Settings, topic: str | None) -> Iterator[TopicReader | None]:
    if topic is None:
        yield None
        return
    with closing(TopicReader(settings, topic)) as reader:
        yield reader
