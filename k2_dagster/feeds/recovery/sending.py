"""Publishes what recovery has to say: requests, and messages that were given again.

Not a `Publisher`: what the venue's numbers identify is published without the publisher pair, which is the live
publisher's (one per stream, DESIGN D4), and to the partition that it was missed in.
"""

import time
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from k2_dagster.errors import NotInitialized
from k2_dagster.feeds.delivery import BY_KEY, CLOSE_MARGIN_SECONDS, DELIVERY_TIMEOUT_SECONDS, Delivery, Waiting
from k2_dagster.feeds.encode import AvroEncoder, message_keys
from k2_dagster.feeds.publisher import MESSAGE_BYTES
from k2_dagster.kafka.registry import Registry
from k2_dagster.kafka.topics import count_changed, declared_topics, describe
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.common import ORIGIN_HEADER
from k2_dagster.schemas.datasets import WIRE_FORMS
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.refused import Headers
from k2_dagster.schemas.topics import subject_name, topic_name
from k2_dagster.settings import Settings

RECOVERED = b"recovered"


class Sender:
    """One producer for one exchange; not for several threads. Leaving the `with` block delivers what was accepted."""

    def __init__(
        self,
        settings: Settings,
        profiles: Profiles,
        exchange: str,
        registry: Registry,
        waiting: Waiting | None = None,
    ) -> None:
        """Raises NotInitialized (a topic is missing), PartitionCountChanged, KafkaUnavailable, ConfigurationError."""
        self._exchange = exchange
        self._registry = registry
        self._encoders: dict[str, AvroEncoder] = {}
        declared = declared_topics(profiles, [exchange])
        found = {topic: state.partitions for topic, state in describe(settings, declared).items()}
        missing = [topic for topic in declared if topic not in found]
        if missing:
            raise NotInitialized(f"topics do not exist: {', '.join(missing)}", advice="run `k2 init`", topics=missing)
        changed = count_changed(declared, found)
        if changed is not None:
            raise changed
        self._partitions = found
        self._delivery = Delivery(settings, MESSAGE_BYTES, waiting or Waiting())

    def request(self, rows: pa.RecordBatch) -> None:
        """Publish requests."""
        self._send("recovery", rows, BY_KEY, origin=None)

    def tell(self, rows: pa.RecordBatch) -> None:
        """Publish rows of control."""
        self._send("control", _published_now(rows), BY_KEY, origin=RECOVERED)

    def recovered(self, dataset: str, rows: pa.RecordBatch, partition: int = BY_KEY) -> None:
        """Publish messages that were given again, in order."""
        same = partition < self._partitions[topic_name(dataset, self._exchange)]
        self._send(dataset, _published_now(rows), partition if same else BY_KEY, origin=RECOVERED)

    def flush(self) -> None:
        """Wait until Kafka has everything. Raises KafkaUnavailable, DeliveryTimedOut, DeliveryFailed."""
        self._delivery.flush(DELIVERY_TIMEOUT_SECONDS + CLOSE_MARGIN_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def _send(self, dataset: str, rows: pa.RecordBatch, partition: int, *, origin: bytes | None) -> None:
        if not rows.num_rows:
            return
        topic = topic_name(dataset, self._exchange)
        if dataset not in self._encoders:
            text = avro_schema_text(WIRE_FORMS[dataset])
            self._encoders[dataset] = AvroEncoder(text, self._registry.register(subject_name(topic), text))
        values = self._encoders[dataset].encode(rows).to_pylist()
        keys = message_keys(self._exchange, rows.column("symbol"))
        headers: Headers | None = None if origin is None else [(ORIGIN_HEADER, origin)]
        self._delivery.send(topic, keys, values, headers, partition=partition)


def _published_now(rows: pa.RecordBatch) -> pa.RecordBatch:
    place = rows.schema.get_field_index("publish_timestamp")
    field = rows.schema.field(place)
    now = pa.repeat(pa.scalar(time.time_ns() // 1_000, pa.int64()), rows.num_rows)
    return rows.set_column(place, field, pc.cast(now, field.type))
