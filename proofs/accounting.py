"""Topics and tables side by side, read by plain clients: is every offset in exactly one place?

Shares no code with ingest. `k2 verify` answers more; this is the second opinion that the proofs rest on.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, Message, TopicPartition
from pyiceberg.catalog import Catalog

from k2_dagster.kafka.clients import client_config
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from k2_dagster.verify.proof import verify
from proofs.common import Lake, Proof

# One request of the plain consumer; local brokers answer in milliseconds.
REQUEST_TIMEOUT_SECONDS = 30.0
# Messages taken at once.
CONSUMED_AT_ONCE = 10_000
# A topic that gives nothing for this long though its end is not reached is a finding of its own.
SILENCE_SECONDS = 30.0


@dataclass
class Accounting:
    """Messages in the topics, and where they are; offsets as (topic, partition, offset), the first few."""

    messages: int = 0
    rows: int = 0
    quarantined: int = 0
    missing: int = 0
    duplicated: int = 0
    extra: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every message is in exactly one place and nothing else is there."""
        return not (self.missing or self.duplicated or self.extra)

    def counts(self) -> dict[str, int]:
        """For the proof's JSON line."""
        return {name: value for name, value in vars(self).items() if isinstance(value, int)}


def read_topic(settings: Settings, topic: str) -> Iterator[Message]:
    """Every message that the topic holds now, partition by partition, in order. Raises TimeoutError when it stalls."""
    consumer = Consumer({**client_config(settings), "group.id": "k2-proof", "auto.offset.reset": "error"})
    try:
        for partition in sorted(consumer.list_topics(topic, REQUEST_TIMEOUT_SECONDS).topics[topic].partitions):
            place = TopicPartition(topic, partition)
            at, end = consumer.get_watermark_offsets(place, REQUEST_TIMEOUT_SECONDS)
            consumer.assign([TopicPartition(topic, partition, at)])
            while at < end:
                batch = consumer.consume(min(CONSUMED_AT_ONCE, end - at), SILENCE_SECONDS)
                if not batch:
                    raise TimeoutError(f"{topic} partition {partition} gives nothing after offset {at}")
                for message in batch:
                    if message.error() is None:
                        at = offset_of(message) + 1
                        yield message
    finally:
        consumer.close()


def offset_of(message: Message) -> int:
    """The offset of a consumed message."""
    offset = message.offset()
    assert offset is not None
    return offset


def partition_of(message: Message) -> int:
    """The partition of a consumed message."""
    partition = message.partition()
    assert partition is not None
    return partition


@contextmanager
def opened(lake: Lake) -> Iterator[Catalog]:
    """The lake's catalog."""
    catalog = open_catalog(lake.settings)
    try:
        yield catalog
    finally:
        close_catalog(catalog)


def table_rows(lake: Lake, dataset: str, exchange: str, columns: Sequence[str] = ("*",)) -> pa.Table:
    """Rows of an exchange in the table `market_data.{dataset}`."""
    with opened(lake) as catalog:
        table = catalog.load_table(f"market_data.{dataset}")
        return table.scan(row_filter=f"exchange = '{exchange}'", selected_fields=tuple(columns)).to_arrow()


def account(lake: Lake, exchanges: Sequence[str]) -> Accounting:
    """Compare every topic of the exchanges with the tables, offset by offset."""
    total = Accounting()
    for exchange in exchanges:
        refused = table_rows(lake, "quarantine", exchange, ("topic", "kafka_partition", "kafka_offset"))
        for dataset in lake.profiles.exchange(exchange).datasets:
            topic = topic_name(dataset, exchange)
            placed = table_rows(lake, dataset, exchange, ("kafka_partition", "kafka_offset"))
            apart = refused.filter(pc.equal(refused["topic"], topic))
            _compare(total, topic, _offsets_of(lake.settings, topic), _positions(placed), _positions(apart))
    return total


def account_twice(lake: Lake, exchanges: Sequence[str], proof: Proof, where: str = "") -> None:
    """Compare by `account` and by `k2 verify`; counts are added to the proof's, disagreements become findings."""
    accounting = account(lake, exchanges)
    for name, number in accounting.counts().items():
        proof.counts[name] = proof.counts.get(name, 0) + number
    for example in accounting.examples:
        proof.object_to(f"{where}{example}")
    report = verify(lake.settings, exchanges=exchanges)
    for stream in report.streams:
        for finding in stream.all_findings():
            proof.object_to(f"{where}k2 verify, {stream.topic}: {finding.fault} {finding.count}: {finding.detail}")
    for table, findings in report.tables.items():
        for finding in findings:
            proof.object_to(f"{where}k2 verify, {table}: {finding.fault} {finding.count}: {finding.detail}")
    proof.counts["verified_messages"] = proof.counts.get("verified_messages", 0) + report.total("messages")


Positions = npt.NDArray[np.int64]


def _compare(total: Accounting, topic: str, sent: Positions, rows: Positions, refused: Positions) -> None:
    placed, times = np.unique(np.concatenate([rows, refused]), return_counts=True)
    kinds = {
        "missing": np.setdiff1d(sent, placed),
        "duplicated": placed[times > 1],
        "extra": np.setdiff1d(placed, sent),
    }
    total.messages += len(sent)
    total.rows += len(rows)
    total.quarantined += len(refused)
    for kind, found in kinds.items():
        setattr(total, kind, getattr(total, kind) + len(found))
        total.examples += [f"{kind}: {topic} partition {one >> 48} offset {one & (2**48 - 1)}" for one in found[:3]]


def _positions(table: pa.Table) -> Positions:
    """Partition and offset as one number."""
    partition = table["kafka_partition"].to_numpy().astype(np.int64)
    out: Positions = (partition << 48) | table["kafka_offset"].to_numpy()
    return out


def _offsets_of(settings: Settings, topic: str) -> Positions:
    places = [(partition_of(one) << 48) | offset_of(one) for one in read_topic(settings, topic)]
    return np.array(places, dtype=np.int64)
