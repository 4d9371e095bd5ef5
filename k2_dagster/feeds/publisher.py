"""Puts rows of one exchange on its topics: stamped, encoded, keyed, acknowledged by all in-sync replicas."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from k2_dagster.errors import (
    ConfigurationError,
    DeliveryFailed,
    KafkaUnavailable,
    NotInitialized,
)
from k2_dagster.feeds.encode import AvroEncoder, Encoder, JsonEncoder, message_keys
from k2_dagster.feeds.numbering import Numbering
from k2_dagster.kafka.clients import REQUEST_TIMEOUT_SECONDS, producer_config, translate, translated
from k2_dagster.kafka.registry import Kind, Registry
from k2_dagster.kafka.topics import count_changed
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.common import ORIGIN_HEADER, ORIGINS
from k2_dagster.schemas.datasets import dataset_named
from k2_dagster.schemas.json_schema import json_schema_text
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.topics import subject_name, topic_name
from k2_dagster.settings import Settings

# Messages that wait for the brokers inside the client. When it is full, `publish` waits: backpressure, and a bound on
# memory. 100,000 is a second of the fastest simulator.
LOCAL_QUEUE_MESSAGES = 100_000
LOCAL_QUEUE_KILOBYTES = 65_536
# A message that the brokers have not taken after this long is reported as failed. Brokers restart and elect leaders
# well within it.
DELIVERY_TIMEOUT_SECONDS = 120.0
# One wait for room in the local queue. Short, so that a failure reported meanwhile is raised soon.
ROOM_POLL_SECONDS = 0.05
# Beyond the delivery timeout every message is delivered or failed; the margin covers the client's own timers.
CLOSE_MARGIN_SECONDS = 10.0
# Failures kept for the error's text; all are counted.
FAILURES_SHOWN = 5

LIVE = ORIGINS[0]
Wire = Literal["avro", "json"]
Headers = list[tuple[str, str | bytes | None]]


@dataclass(frozen=True)
class _Failures:
    count: int = 0
    shown: tuple[str, ...] = ()

    def plus(self, text: str) -> "_Failures":
        return _Failures(self.count + 1, (*self.shown, text)[:FAILURES_SHOWN])


class Publisher:
    """One publisher of one exchange; not for several threads.

    A failed delivery surfaces as DeliveryFailed at the next `publish`, `flush` or `close`. Leaving the `with` block
    closes it, so what was accepted is delivered also after an exception or Ctrl-C.
    """

    def __init__(
        self, settings: Settings, profiles: Profiles, exchange: str, *, publisher_session: str, wire: Wire = "avro"
    ) -> None:
        """Raises ConfigurationError for an unknown exchange or a refused Kafka setting; connects lazily."""
        self._profile = profiles.exchange(exchange)
        self._exchange = exchange
        self._session = publisher_session
        self._wire = wire
        self._registry = Registry(settings)
        self._numbering: dict[str, Numbering] = {}
        self._encoders: dict[tuple[str, str], Encoder] = {}
        self._topics_checked = False
        self._failures = _Failures()
        with translated("start a producer"):
            self._producer = Producer({**producer_config(settings), **self._client_options()})

    def _client_options(self) -> dict[str, object]:
        return {
            "queue.buffering.max.messages": LOCAL_QUEUE_MESSAGES,
            "queue.buffering.max.kbytes": LOCAL_QUEUE_KILOBYTES,
            "message.timeout.ms": int(DELIVERY_TIMEOUT_SECONDS * 1000),
            "allow.auto.create.topics": False,
            "delivery.report.only.error": True,
            "on_delivery": self._on_delivery,
        }

    def publish(self, dataset: str, rows: pa.RecordBatch, *, origin: str = LIVE, schema_text: str | None = None) -> int:
        """Publish rows in wire form, in order; returns how many were accepted (all of them).

        Stamps `publisher_session`, `publisher_sequence` (dense from 1 per dataset and symbol) and `publish_timestamp`
        where a column is null in every row; a column that has values is left alone. `schema_text` is another version of
        the dataset's wire schema, whose columns the rows then have; it is registered first.

        Raises ConfigurationError (rows do not fit), NotInitialized, PartitionCountChanged, DeliveryFailed,
        KafkaUnavailable, RegistryUnavailable, SchemaIncompatible.
        """
        if not rows.num_rows:
            self._raise_failures()
            return 0
        return self.publish_framed(dataset, *self.framed(dataset, rows, schema_text=schema_text), origin=origin)

    def framed(
        self, dataset: str, rows: pa.RecordBatch, *, schema_text: str | None = None
    ) -> tuple[list[bytes], list[bytes]]:
        """Keys and framed values that `publish` would send, stamped (so their publisher numbers are taken)."""
        encoder = self._encoder(dataset, schema_text or self._declared_text(dataset))
        values = encoder.encode(self._stamped(dataset, rows))
        return message_keys(self._exchange, rows.column("symbol")), values.to_pylist()

    def publish_framed(
        self, dataset: str, keys: Iterable[bytes], values: Iterable[bytes | None], *, origin: str = LIVE
    ) -> int:
        """Publish messages as they are, in order: original bytes that are sent again, or damage made on purpose."""
        if origin not in ORIGINS:
            raise ConfigurationError(f"origin was {origin!r}", advice=f"valid: {', '.join(ORIGINS)}", origin=origin)
        topic = topic_name(dataset, self._exchange)
        self._check_topics()
        headers: Headers | None = None if origin == LIVE else [(ORIGIN_HEADER, origin.encode())]
        accepted = 0
        produce = self._producer.produce
        try:
            for key, value in zip(keys, values, strict=True):
                try:
                    produce(topic, value, key, headers=headers)
                except BufferError:
                    self._produce_when_room(topic, value, key, headers)
                accepted += 1
        except KafkaException as error:
            raise _refused(topic, error) from error
        self._producer.poll(0)
        self._raise_failures()
        return accepted

    def schema_id(self, dataset: str) -> int:
        """Registry id of the dataset's declared schema, registered if it was not."""
        return self._encoder(dataset, self._declared_text(dataset)).schema_id

    def flush(self, timeout_seconds: float) -> None:
        """Wait until everything accepted is delivered. Raises KafkaUnavailable when the time passes first (what is left
        stays queued: flush again), DeliveryFailed."""
        left = self._producer.flush(timeout_seconds)
        self._raise_failures()
        if left:
            raise KafkaUnavailable(
                f"{left} messages were not yet delivered after {timeout_seconds:g} s",
                advice="they stay queued; `k2 doctor` tries the brokers",
                left=left,
            )

    def close(self) -> None:
        """Deliver everything accepted; waits as long as a delivery may take. Raises as `flush`. May be called twice."""
        try:
            self.flush(DELIVERY_TIMEOUT_SECONDS + CLOSE_MARGIN_SECONDS)
        finally:
            self._registry.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _declared_text(self, dataset: str) -> str:
        declared = dataset_named(dataset)
        return avro_schema_text(declared) if self._wire == "avro" else json_schema_text(declared)

    def _encoder(self, dataset: str, schema_text: str) -> Encoder:
        if (dataset, schema_text) not in self._encoders:
            self._check_topics()
            kind: Kind = "AVRO" if self._wire == "avro" else "JSON"
            made = AvroEncoder if self._wire == "avro" else JsonEncoder
            subject = subject_name(topic_name(dataset, self._exchange), kind)
            schema_id = self._registry.register(subject, schema_text, kind)
            self._encoders[dataset, schema_text] = made(schema_text, schema_id)
        return self._encoders[dataset, schema_text]

    def _stamped(self, dataset: str, rows: pa.RecordBatch) -> pa.RecordBatch:
        if _is_empty(rows, "publisher_sequence"):
            numbering = self._numbering.setdefault(dataset, Numbering())
            rows = _with_column(rows, "publisher_sequence", numbering.next_numbers(rows.column("symbol")))
        if _is_empty(rows, "publisher_session"):
            rows = _with_column(rows, "publisher_session", pa.repeat(self._session, rows.num_rows))
        if _is_empty(rows, "publish_timestamp"):
            now = pa.scalar(time.time_ns() // 1000, pa.int64())
            now_column = pc.cast(pa.repeat(now, rows.num_rows), rows.schema.field("publish_timestamp").type)
            rows = _with_column(rows, "publish_timestamp", now_column)
        return rows

    def _check_topics(self) -> None:
        """Every topic of the exchange, before anything is registered or sent: half a feed is worse than none."""
        if self._topics_checked:
            return
        declared = {topic_name(one, self._exchange): self._profile.partitions_of(one) for one in self._profile.datasets}
        with translated("describe topics"):
            known = self._producer.list_topics(timeout=REQUEST_TIMEOUT_SECONDS).topics
        found = {topic: len(known[topic].partitions) for topic in declared if topic in known}
        broken = next((error for topic in found if (error := known[topic].error) is not None), None)
        if broken is not None:
            raise translate(broken, "describe topics")
        missing = [topic for topic in declared if topic not in found]
        if missing:
            raise NotInitialized(f"topics do not exist: {', '.join(missing)}", advice="run `k2 init`", topics=missing)
        changed = count_changed(declared, found)
        if changed is not None:
            raise changed
        self._topics_checked = True

    def _produce_when_room(self, topic: str, value: bytes | None, key: bytes, headers: Headers | None) -> None:
        # Ends: the client fails queued messages after the delivery timeout, which makes room and raises here.
        while True:
            self._producer.poll(ROOM_POLL_SECONDS)
            self._raise_failures()
            try:
                self._producer.produce(topic, value, key, headers=headers)
            except BufferError:
                continue
            return

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            key = (message.key() or b"").decode(errors="replace")
            self._failures = self._failures.plus(f"{message.topic()} key {key}: {error.str()}")

    def _raise_failures(self) -> None:
        if not self._failures.count:
            return
        failures, self._failures = self._failures, _Failures()
        raise DeliveryFailed(
            f"Kafka did not take {failures.count} accepted messages; first: {'; '.join(failures.shown)}",
            advice="publish them again: ingest drops what had arrived as duplicates",
            count=failures.count,
        )


def _is_empty(rows: pa.RecordBatch, name: str) -> bool:
    """Whether the column has no value at all. Raises ConfigurationError when only some rows have one."""
    nulls = rows.column(name).null_count
    if 0 < nulls < rows.num_rows:
        raise ConfigurationError(
            f"{name} was null in {nulls} of {rows.num_rows} rows", advice="fill it in every row or in none", field=name
        )
    return bool(nulls)


def _with_column(rows: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(place), values)


def _refused(topic: str, error: KafkaException) -> DeliveryFailed:
    return DeliveryFailed(
        f"Kafka's client refused a message for {topic}: {error.args[0].str()}",
        advice="a message over message.max.bytes cannot be sent; a fatal producer error needs a new publisher",
        topic=topic,
    )
