"""One behaviour for every reader, against a real broker."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from threading import Thread
from time import monotonic

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from k2_dagster.devstack.stack import Stack
from k2_dagster.errors import InputLost, KafkaUnavailable, LogShrunk, ReaderStalled, RetentionOverrun
from k2_dagster.kafka.batch import NO_EVENTS, Event, Gathering
from k2_dagster.kafka.clients import producer_config
from k2_dagster.kafka.exact import ExactReader
from k2_dagster.kafka.native import NativeClient
from k2_dagster.kafka.plain import PlainClient
from k2_dagster.kafka.progress import Patience
from k2_dagster.kafka.reader import RawBatch, Reader, open_reader
from k2_dagster.settings import Settings

pytestmark = pytest.mark.stack

MakeTopic = Callable[[int], str]
READ_SECONDS = 30.0
# A killed broker replays its log and waits until the controller has given up its former self.
RESTART_SECONDS = 120.0


@pytest.fixture(params=["plain", "native"])
def reading(request: pytest.FixtureRequest, kafka_settings: Settings) -> Settings:
    """Settings that name one of the readers."""
    return kafka_settings.model_copy(update={"ingest_reader": request.param})


@pytest.fixture
def reader(reading: Settings) -> Iterator[Reader]:
    with closing(open_reader(reading)) as opened:
        yield opened


def produce(settings: Settings, topic: str, values: list[bytes | None], partition: int = 0) -> None:
    producer = Producer(producer_config(settings))
    for number, value in enumerate(values):
        producer.produce(topic, value, f"key-{number}".encode(), partition=partition)
        if number % 50_000 == 49_999:  # before the client's queue of 100,000 is full
            assert producer.flush(READ_SECONDS) == 0
    assert producer.flush(READ_SECONDS) == 0


def read_until(
    reader: Reader, ends: Mapping[int, int], max_messages: int = 100_000, seconds: float = READ_SECONDS
) -> RawBatch:
    """Everything until the positions have reached the ends, as one batch."""
    batches: list[RawBatch] = []
    deadline = monotonic() + seconds
    while monotonic() < deadline:
        batches.append(batch := reader.read(max_messages, 1.0))
        if all(batch.positions[partition] >= end for partition, end in ends.items()):
            return joined(batches)
    raise AssertionError(f"read {sum(map(len, batches))} messages to {batch.positions}, not to {ends}")


def joined(batches: Sequence[RawBatch]) -> RawBatch:
    """One batch of their messages, in their order."""
    headers = {}
    first_row = 0
    for batch in batches:
        headers.update({first_row + row: found for row, found in batch.headers.items()})
        first_row += len(batch)
    return RawBatch(
        batches[0].topic,
        np.concatenate([batch.partition for batch in batches]),
        np.concatenate([batch.offset for batch in batches]),
        np.concatenate([batch.timestamp_ms for batch in batches]),
        pa.concat_arrays([batch.keys for batch in batches]),
        pa.concat_arrays([batch.values for batch in batches]),
        headers,
        batches[-1].positions,
    )


def numbers(count: int) -> list[bytes | None]:
    return [str(number).encode() for number in range(count)]


def test_messages_come_in_order_and_once(reader: Reader, kafka_settings: Settings, make_topic: MakeTopic) -> None:
    topic, count = make_topic(1), 30_001
    produce(kafka_settings, topic, numbers(count))
    reader.assign(topic, {0: 0})
    batch = read_until(reader, {0: count}, max_messages=7_000)
    assert batch.values.to_pylist() == numbers(count)
    assert batch.keys.to_pylist() == [f"key-{number}".encode() for number in range(count)]
    assert batch.offset.tolist() == list(range(count))
    assert batch.offset.dtype == np.int64
    assert batch.partition.dtype == np.int32
    assert not batch.partition.any()
    assert (np.diff(batch.timestamp_ms) >= 0).all()
    assert batch.timestamp_ms[0] > 1_700_000_000_000
    assert batch.positions == {0: count}
    assert batch.headers == {}


def test_a_batch_has_at_most_the_asked_messages(
    reader: Reader, kafka_settings: Settings, make_topic: MakeTopic
) -> None:
    topic = make_topic(1)
    produce(kafka_settings, topic, numbers(50))
    reader.assign(topic, {0: 0})
    first, second = reader.read(20, READ_SECONDS), reader.read(20, READ_SECONDS)
    assert (first.positions, second.positions) == ({0: 20}, {0: 40})
    assert (first.values.to_pylist() + second.values.to_pylist()) == numbers(40)


def test_reading_starts_at_the_assigned_offset(reader: Reader, kafka_settings: Settings, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    produce(kafka_settings, topic, numbers(100))
    reader.assign(topic, {0: 63})
    assert read_until(reader, {0: 100}).values.to_pylist() == numbers(100)[63:]
    reader.assign(topic, {0: 7})
    assert read_until(reader, {0: 100}).offset.tolist() == list(range(7, 100))


def test_partitions_keep_their_own_order(reader: Reader, kafka_settings: Settings, make_topic: MakeTopic) -> None:
    topic = make_topic(4)
    for partition, count in enumerate((5_000, 1, 0, 12_000)):
        produce(kafka_settings, topic, numbers(count), partition)
    reader.assign(topic, {0: 0, 1: 0, 2: 0, 3: 2_000})
    batch = read_until(reader, {0: 5_000, 1: 1, 2: 0, 3: 12_000})
    for partition, expected in {0: range(5_000), 1: range(1), 2: range(0), 3: range(2_000, 12_000)}.items():
        rows = np.flatnonzero(batch.partition == partition)
        assert batch.offset[rows].tolist() == list(expected)
        assert batch.values.take(rows).to_pylist() == [str(number).encode() for number in expected]


def test_only_assigned_partitions_are_read(reader: Reader, kafka_settings: Settings, make_topic: MakeTopic) -> None:
    topic = make_topic(3)
    for partition in range(3):
        produce(kafka_settings, topic, numbers(10), partition)
    reader.assign(topic, {1: 0})
    batch = read_until(reader, {1: 10})
    assert set(batch.partition.tolist()) == {1}
    assert batch.positions == {1: 10}


def test_null_and_empty_are_told_apart(reader: Reader, kafka_settings: Settings, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    pairs = [(b"k", None), (None, b"v"), (b"", b""), (None, None), (b"k", b"v")]
    producer = Producer(producer_config(kafka_settings))
    for key, value in pairs:
        producer.produce(topic, value, key, partition=0)
    assert producer.flush(READ_SECONDS) == 0
    reader.assign(topic, {0: 0})
    batch = read_until(reader, {0: len(pairs)})
    assert list(zip(batch.keys.to_pylist(), batch.values.to_pylist(), strict=True)) == pairs
    assert batch.values.null_count == 2


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_headers_come_with_their_row(
    reader: Reader, kafka_settings: Settings, make_topic: MakeTopic, compression: str
) -> None:
    topic = make_topic(1)
    given: dict[int, list[tuple[str, str | bytes | None]]] = {
        3: [("k2-origin", b"recovered")],
        2_500: [("twice", b"1"), ("twice", b"2"), ("null", None), ("empty", b""), ("näme", b"\x00\xff")],
        3_001: [(f"many-{number}", b"") for number in range(70)],
        4_999: [("k2-origin", b"restated")],
    }
    producer = Producer({**producer_config(kafka_settings), "compression.type": compression})
    for number in range(5_000):
        key = (None, b"key", b"")[number % 3]
        producer.produce(topic, b"x" * (number % 200), key, headers=given.get(number), partition=0)
    assert producer.flush(READ_SECONDS) == 0
    reader.assign(topic, {0: 0})
    assert read_until(reader, {0: 5_000}).headers == given


def test_large_messages_arrive_whole(reader: Reader, kafka_settings: Settings, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    values: list[bytes | None] = [bytes([number]) * 900_000 for number in range(40)]
    produce(kafka_settings, topic, values)
    reader.assign(topic, {0: 0})
    assert read_until(reader, {0: 40}).values.to_pylist() == values


def test_aborted_messages_are_holes_and_positions_pass_markers(
    reader: Reader, kafka_settings: Settings, make_topic: MakeTopic
) -> None:
    topic = make_topic(1)
    producer = Producer({**producer_config(kafka_settings), "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(READ_SECONDS)
    for number in range(6):
        producer.begin_transaction()
        for place in range(10):
            producer.produce(topic, f"{number}.{place}".encode(), partition=0)
        producer.flush(READ_SECONDS)
        if number % 2:
            producer.abort_transaction(READ_SECONDS)
        else:
            producer.commit_transaction(READ_SECONDS)
    reader.assign(topic, {0: 0})
    # 6 transactions of 10 messages and a marker; the last is aborted, so the position must pass messages that
    # nobody sees
    batch = read_until(reader, {0: 66})
    assert batch.values.to_pylist() == [f"{number}.{place}".encode() for number in (0, 2, 4) for place in range(10)]
    assert batch.offset.tolist() == [number * 11 + place for number in (0, 2, 4) for place in range(10)]
    assert batch.positions == {0: 66}


def test_an_idle_topic_gives_an_empty_batch_in_time(
    reader: Reader, kafka_settings: Settings, make_topic: MakeTopic
) -> None:
    topic = make_topic(2)
    reader.assign(topic, {0: 0, 1: 0})
    reader.read(10, 2.0)
    began = monotonic()
    batch = reader.read(10, 0.3)
    assert 0.25 < monotonic() - began < 2.0
    assert (len(batch), batch.values.to_pylist(), batch.positions) == (0, [], {0: 0, 1: 0})


def test_reading_ends_early_where_all_partitions_are_read(
    reader: Reader, kafka_settings: Settings, make_topic: MakeTopic
) -> None:
    topic = make_topic(2)
    produce(kafka_settings, topic, numbers(10))
    reader.assign(topic, {0: 0, 1: 0})
    began = monotonic()
    assert len(reader.read(100, READ_SECONDS)) == 10
    assert monotonic() - began < READ_SECONDS / 2


def test_reading_until_given_positions_ends_there(
    reader: Reader, kafka_settings: Settings, make_topic: MakeTopic
) -> None:
    topic = make_topic(2)
    produce(kafka_settings, topic, numbers(10))
    reader.assign(topic, {0: 0, 1: 0})
    began = monotonic()
    assert reader.read(100, READ_SECONDS, {0: 10, 1: 0}).positions == {0: 10, 1: 0}
    assert monotonic() - began < READ_SECONDS / 2
    # At the end of both partitions, but not yet where it is told to go
    began = monotonic()
    assert len(reader.read(100, 1.0, {0: 11, 1: 0})) == 0
    assert monotonic() - began >= 1.0


def test_an_offset_older_than_retention_is_an_overrun(
    reader: Reader, kafka_settings: Settings, make_topic: MakeTopic, admin: AdminClient
) -> None:
    topic = make_topic(2)
    produce(kafka_settings, topic, numbers(100), partition=1)
    for deletion in admin.delete_records([TopicPartition(topic, 1, 40)]).values():
        deletion.result(10)
    reader.assign(topic, {1: 25})
    with pytest.raises(RetentionOverrun, match="messages 25 to 39 are gone") as caught:
        read_until(reader, {1: 100})
    assert caught.value.fields == {"topic": topic, "partition": 1, "offset": 25, "lost": (25, 40)}
    with pytest.raises(RetentionOverrun):
        reader.read(10, 0.1)
    reader.assign(topic, {1: 40})
    assert read_until(reader, {1: 100}).offset.tolist() == list(range(40, 100))


def test_an_offset_behind_the_end_is_a_shrunken_log(
    reader: Reader, kafka_settings: Settings, make_topic: MakeTopic
) -> None:
    topic = make_topic(1)
    produce(kafka_settings, topic, numbers(10))
    reader.assign(topic, {0: 11})
    with pytest.raises(LogShrunk, match="ends at offset 10, before offset 11"):
        read_until(reader, {0: 11 + 1})


def client_of(settings: Settings) -> type[PlainClient] | type[NativeClient]:
    return PlainClient if settings.ingest_reader == "plain" else NativeClient


def test_a_deleted_topic_is_lost_input(reading: Settings, make_topic: MakeTopic, admin: AdminClient) -> None:
    topic = make_topic(1)
    produce(reading, topic, numbers(10))
    with closing(ExactReader(reading, client_of(reading), Patience(check_seconds=0.5))) as reader:
        reader.assign(topic, {0: 0})
        read_until(reader, {0: 10})
        admin.delete_topics([topic])[topic].result(10)
        with pytest.raises(InputLost):
            read_until(reader, {0: 11})


def test_a_killed_broker_costs_no_message_and_repeats_none(
    reader: Reader, kafka_settings: Settings, make_topic: MakeTopic, stack: Stack
) -> None:
    topic, count = make_topic(2), 200_000
    for partition in range(2):
        produce(kafka_settings, topic, [b"x" * 200 + str(number).encode() for number in range(count)], partition)
    reader.assign(topic, {0: 0, 1: 0})
    before = reader.read(20_000, READ_SECONDS)
    assert len(before) == 20_000
    stack.kill("kafka-1")
    restart = Thread(target=stack.start, args=("kafka-1",))
    restart.start()
    try:
        after = read_until(reader, {0: count, 1: count}, seconds=RESTART_SECONDS)
    finally:
        restart.join()
    for partition in range(2):
        offsets = np.concatenate([batch.offset[batch.partition == partition] for batch in (before, after)])
        assert np.array_equal(offsets, np.arange(count))


class DeafClient:
    """Delivers nothing, as a client that is stuck on a partition's old leader."""

    def poll(self, into: Gathering, max_messages: int, timeout_seconds: float) -> Sequence[Event]:
        return NO_EVENTS

    def close(self) -> None:
        return None


IMPATIENT = Patience(check_seconds=0.05, stall_seconds=0.1, outage_seconds=0.2)


def test_a_stuck_client_is_replaced_once(kafka_settings: Settings, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    produce(kafka_settings, topic, numbers(10))
    made: list[Mapping[int, int]] = []

    def make(settings: Settings, topic: str, starts: Mapping[int, int]) -> DeafClient | PlainClient:
        made.append(dict(starts))
        return DeafClient() if len(made) == 1 else PlainClient(settings, topic, starts)

    with closing(ExactReader(kafka_settings, make, Patience(check_seconds=1.0, stall_seconds=2.0))) as reader:
        reader.assign(topic, {0: 4})
        assert read_until(reader, {0: 10}).offset.tolist() == list(range(4, 10))
    assert made == [{0: 4}, {0: 4}]


def test_a_client_that_stays_stuck_is_an_error(kafka_settings: Settings, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    produce(kafka_settings, topic, numbers(10))
    with closing(ExactReader(kafka_settings, lambda *_: DeafClient(), IMPATIENT)) as reader:
        reader.assign(topic, {0: 4})
        with pytest.raises(ReaderStalled, match="from offset 4 though it ends at 10"):
            read_until(reader, {0: 10})


def test_brokers_that_never_answer_are_unavailable(kafka_settings: Settings) -> None:
    nowhere = kafka_settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    with closing(ExactReader(nowhere, NativeClient, IMPATIENT)) as reader:
        reader.assign("test.nowhere", {0: 0})
        with pytest.raises(KafkaUnavailable):
            reader.read(10, READ_SECONDS)
