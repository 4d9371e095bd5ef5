"""Puts rows of one exchange on its topics: stamped, encoded, keyed, acknowledged by all in-sync replicas."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Literal, Self

import pyarrow as pa
import pyarrow.compute as pc

from k2_dagster.errors import ConfigurationError, NotInitialized
from k2_dagster.feeds.delivery import CLOSE_MARGIN_SECONDS, DELIVERY_TIMEOUT_SECONDS, Delivery, Instead, Waiting
from k2_dagster.feeds.encode import AvroEncoder, Encoder, JsonEncoder, message_keys
from k2_dagster.feeds.numbering import Numbering
from k2_dagster.kafka.clients import REQUEST_TIMEOUT_SECONDS, translate, translated
from k2_dagster.kafka.registry import Kind, Registry
from k2_dagster.kafka.topics import count_changed, message_limits
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.common import BEHIND_HEADER, ORIGIN_HEADER, ORIGINS
from k2_dagster.schemas.datasets import dataset_named
from k2_dagster.schemas.json_schema import json_schema_text
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.refused import Headers, Refused, VenueIdentity, refused_headers
from k2_dagster.schemas.topics import message_key, subject_name, topic_name
from k2_dagster.settings import Settings

# The largest message that is sent, whatever the topics would take: the client's own default, below the brokers'.
MESSAGE_BYTES = 1_000_000
# Below this the client cannot be set.
LEAST_MESSAGE_BYTES = 1_000
# A broker's limit is on a batch: its header, and what a record has besides key, value and headers.
BATCH_OVERHEAD_BYTES = 512
DIGEST_BYTES = 16

LIVE = ORIGINS[0]
Wire = Literal["avro", "json"]
_IDENTITY = ("stream", "kind", "symbol", "session", "channel", "sequence", "previous_sequence")


class Publisher:
    """One publisher of one exchange; not for several threads.

    A failed delivery surfaces as DeliveryTimedOut or DeliveryFailed at the next `publish`, `flush` or `close`. Leaving
    the `with` block closes it, so what was accepted is delivered also after an exception or Ctrl-C. `accepted` counts
    rows and framed messages by dataset, `refused` and `too_large` inputs and rows that went as refused ones.
    """

    def __init__(
        self,
        settings: Settings,
        profiles: Profiles,
        exchange: str,
        *,
        publisher_session: str,
        wire: Wire = "avro",
        waiting: Waiting | None = None,
    ) -> None:
        """Raises ConfigurationError for an unknown exchange; connects at the first message."""
        self.accepted: Counter[str] = Counter()
        self.refused = 0
        self.too_large = 0
        self._settings = settings
        self._profile = profiles.exchange(exchange)
        self._exchange = exchange
        self._session = publisher_session
        self._wire = wire
        self._waiting = waiting or Waiting()
        self._registry = Registry(settings)
        self._numbering: dict[str, Numbering] = {}
        self._encoders: dict[tuple[str, str], Encoder] = {}
        self._topics_checked = False

    @cached_property
    def _delivery(self) -> Delivery:
        """Connected at its first use, because its limit is that of the topics."""
        topics = [topic_name(dataset, self._exchange) for dataset in self._profile.datasets]
        limits = [limit - BATCH_OVERHEAD_BYTES for limit in message_limits(self._settings, topics).values()]
        message_bytes = max(LEAST_MESSAGE_BYTES, min([MESSAGE_BYTES, *limits]))
        return Delivery(self._settings, message_bytes, self._waiting)

    @property
    def undelivered(self) -> int:
        """Accepted messages that Kafka did not take."""
        return self._delivery.undelivered if "_delivery" in vars(self) else 0

    def publish(
        self,
        dataset: str,
        rows: pa.RecordBatch,
        *,
        origin: str = LIVE,
        schema_text: str | None = None,
        kept_in: Callable[[int], str] | None = None,
        is_behind: bool = False,
    ) -> int:
        """Publish rows in wire form, in order; returns how many were accepted (all but those that are too large).

        Stamps `publisher_session`, `publisher_sequence` (dense from 1 per dataset and symbol) and `publish_timestamp`
        where a column is null in every row; a column that has values is left alone. `schema_text` is another version of
        the dataset's wire schema, whose columns the rows then have; it is registered first. A row whose message is too
        large for Kafka goes as a refused one, without its value: `kept_in` says where to find the original. That rows
        came behind the order of their channel (`is_behind`) a header says.

        Raises ConfigurationError (rows do not fit), NotInitialized, PartitionCountChanged, DeliveryFailed,
        DeliveryTimedOut, KafkaUnavailable, RegistryUnavailable, SchemaIncompatible.
        """
        if not rows.num_rows:
            return 0
        encoder = self._encoder(dataset, schema_text or self._declared_text(dataset))
        stamped = self._stamped(dataset, rows)
        values = encoder.encode(stamped).to_pylist()

        def instead(row: int, value: bytes) -> Headers:
            self.too_large += 1
            source = "" if kept_in is None else kept_in(row)
            return refused_headers(_left_out(_row_refused(stamped, row, source), value))

        keys = message_keys(self._exchange, rows.column("symbol"))
        return self._send(dataset, keys, values, origin, instead, is_behind=is_behind)

    def framed(
        self, dataset: str, rows: pa.RecordBatch, *, schema_text: str | None = None
    ) -> tuple[list[bytes], list[bytes]]:
        """Keys and framed values that `publish` would send, stamped (so their publisher numbers are taken)."""
        encoder = self._encoder(dataset, schema_text or self._declared_text(dataset))
        values = encoder.encode(self._stamped(dataset, rows))
        return message_keys(self._exchange, rows.column("symbol")), values.to_pylist()

    def publish_framed(
        self, dataset: str, keys: Iterable[bytes], values: Iterable[bytes | None], *, origin: str = LIVE,
        is_behind: bool = False,
    ) -> int:  # fmt: skip
        """Publish messages as they are, in order: original bytes that are sent again, or damage made on purpose.
        `is_behind` as `publish` takes it."""
        return self._send(dataset, keys, values, origin, is_behind=is_behind)

    def refuse(self, dataset: str, symbol: str, raw: bytes, refused: Refused) -> None:
        """Publish input that no row could be made of: its bytes, and in headers what is known and its publisher pair.

        Bytes that Kafka would not take are left out, with their size and digest told; `refused.source` says where the
        input is kept whole.
        """
        self._check_topics()
        sequence = self._numbers(dataset).next_numbers(pa.array([symbol]))[0].as_py()
        identity = replace(refused.identity, symbol=symbol)
        told = replace(refused, identity=identity, publisher_session=self._session, publisher_sequence=sequence)
        left_out = refused_headers(_left_out(told, raw))
        topic, key = topic_name(dataset, self._exchange), message_key(self._exchange, symbol)
        size = len(key) + len(raw) + sum(len(name) + len(value or b"") for name, value in left_out)
        if size > self._delivery.message_bytes:
            self._delivery.send(topic, [key], [None], left_out)
        else:
            self._delivery.send(topic, [key], [raw], refused_headers(told))
        self.refused += 1

    def _send(
        self,
        dataset: str,
        keys: Iterable[bytes],
        values: Iterable[bytes | None],
        origin: str,
        instead: Instead | None = None,
        *,
        is_behind: bool = False,
    ) -> int:
        if origin not in ORIGINS:
            raise ConfigurationError(f"origin was {origin!r}", advice=f"valid: {', '.join(ORIGINS)}", origin=origin)
        topic = topic_name(dataset, self._exchange)
        self._check_topics()
        before = self._delivery.accepted - self.too_large
        headers: Headers = [] if origin == LIVE else [(ORIGIN_HEADER, origin.encode())]
        headers += [(BEHIND_HEADER, b"1")] if is_behind else []
        try:
            self._delivery.send(topic, keys, values, headers or None, instead)
        finally:
            accepted = self._delivery.accepted - self.too_large - before
            self.accepted[dataset] += accepted
        return accepted

    def begin_session(self, publisher_session: str) -> None:
        """Give what is published from now on another publisher session, whose numbers begin at 1."""
        self._session = publisher_session
        self._numbering = {}

    def schema_id(self, dataset: str) -> int:
        """Registry id of the dataset's declared schema, registered if it was not."""
        return self._encoder(dataset, self._declared_text(dataset)).schema_id

    def flush(self, timeout_seconds: float) -> None:
        """Wait until everything accepted is delivered. Raises KafkaUnavailable when the time passes first (what is left
        stays queued: flush again), DeliveryTimedOut, DeliveryFailed."""
        if "_delivery" in vars(self):
            self._delivery.flush(timeout_seconds)

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
            numbers = self._numbers(dataset).next_numbers(rows.column("symbol"))
            rows = _with_column(rows, "publisher_sequence", numbers)
        if _is_empty(rows, "publisher_session"):
            rows = _with_column(rows, "publisher_session", pa.repeat(self._session, rows.num_rows))
        if _is_empty(rows, "publish_timestamp"):
            now = pa.scalar(time.time_ns() // 1000, pa.int64())
            now_column = pc.cast(pa.repeat(now, rows.num_rows), rows.schema.field("publish_timestamp").type)
            rows = _with_column(rows, "publish_timestamp", now_column)
        return rows

    def _numbers(self, dataset: str) -> Numbering:
        return self._numbering.setdefault(dataset, Numbering())

    def _check_topics(self) -> None:
        """Every topic of the exchange, before anything is registered or sent: half a feed is worse than none."""
        if self._topics_checked:
            return
        declared = {topic_name(one, self._exchange): self._profile.partitions_of(one) for one in self._profile.datasets}
        with translated("describe topics"):
            known = self._delivery.producer.list_topics(timeout=REQUEST_TIMEOUT_SECONDS).topics
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


def _row_refused(rows: pa.RecordBatch, row: int, source: str) -> Refused:
    """A row whose message is too large, as a refused one with the same identity."""
    told = {name: rows.column(name)[row].as_py() for name in (*_IDENTITY, "publisher_session", "publisher_sequence")}
    return Refused(
        "",
        VenueIdentity(**{name: told[name] for name in _IDENTITY}),
        publisher_session=told["publisher_session"],
        publisher_sequence=told["publisher_sequence"],
        source=source,
    )


def _left_out(refused: Refused, value: bytes) -> Refused:
    """The same without its value, which Kafka would not take."""
    reason = f"{len(value):,} bytes are more than Kafka takes in a message"
    return replace(
        refused,
        reason=f"{refused.reason}; {reason}" if refused.reason else reason,
        left_out_bytes=len(value),
        left_out_digest=hashlib.blake2b(value, digest_size=DIGEST_BYTES).hexdigest(),
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
