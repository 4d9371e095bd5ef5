import io
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from confluent_kafka import murmur2
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from confluent_kafka.cimpl import NewTopic

from k2_dagster.devstack.process import wait_until
from k2_dagster.errors import (
    ConfigurationError,
    DeliveryFailed,
    DeliveryTimedOut,
    NotInitialized,
    PartitionCountChanged,
)
from k2_dagster.feeds import delivery
from k2_dagster.feeds.delivery import Waiting
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.kafka.clients import client_config
from k2_dagster.kafka.registry import Registry
from k2_dagster.kafka.topics import watermarks
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.avro import avro_schema
from k2_dagster.schemas.refused import VenueIdentity, read_refused
from k2_dagster.schemas.ticks import TICKS
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from tests.feeds.conftest import MakeProfiles, Read

pytestmark = pytest.mark.stack
MICROS = 1_780_000_000_000_000
ReadTopic = Callable[[str], list[Read]]


def ticks(exchange: str, symbols: list[str], **changed: Any) -> pa.RecordBatch:
    rows = [
        {
            "exchange": exchange, "stream": "ticks_stream", "kind": "trade", "symbol": symbol, "sequence": place,
            "exchange_timestamp": MICROS + place, "price": 100 + place, "size": 1, "side": "buy", **changed,
        }
        for place, symbol in enumerate(symbols)
    ]  # fmt: skip
    return pa.RecordBatch.from_pylist(rows, schema=wire_schema(TICKS))


def create_topic(settings: Settings, topic: NewTopic) -> None:
    admin = AdminClient(client_config(settings))
    admin.create_topics([topic])[topic.topic].result()
    # a broker hears of it after the controller
    assert wait_until(lambda: topic.topic in admin.list_topics(timeout=10).topics, 20)


def decoded(message: Read) -> dict[str, Any]:
    read: Any = fastavro.schemaless_reader(io.BytesIO(message.value[5:]), avro_schema(TICKS), None)
    return dict(read)


def test_rows_arrive_once_stamped_and_in_order_per_symbol(
    settings: Settings, new_exchange: MakeProfiles, read_topic: ReadTopic
) -> None:
    profiles, exchange = new_exchange(ticks="dense")
    symbols = [f"S{place % 7}" for place in range(5_000)]
    with Publisher(settings, profiles, exchange, publisher_session="run-1") as publisher:
        assert publisher.publish("ticks", ticks(exchange, symbols[:3_000])) == 3_000
        assert publisher.publish("ticks", ticks(exchange, symbols[3_000:])) == 2_000
    messages = read_topic(topic_name("ticks", exchange))
    assert len(messages) == 5_000
    numbers: dict[str, list[int]] = defaultdict(list)
    with closing(Registry(settings)) as registry:
        registered = registry.latest(f"{topic_name('ticks', exchange)}-value")
    assert registered is not None
    assert json.loads(registered.text) == avro_schema(TICKS)
    for message in messages:
        row = decoded(message)
        assert message.value[:5] == b"\0" + registered.id.to_bytes(4, "big")
        assert message.key == f"{exchange}.{row['symbol']}".encode()
        assert message.partition == murmur2(message.key, 2)
        assert message.headers == []
        assert row["publisher_session"] == "run-1"
        assert row["publish_timestamp"] is not None
        numbers[row["symbol"]].append(row["publisher_sequence"])
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())


def test_filled_columns_are_left_alone_and_half_filled_ones_refused(
    settings: Settings, new_exchange: MakeProfiles, read_topic: ReadTopic
) -> None:
    profiles, exchange = new_exchange(ticks="dense")
    rows = ticks(exchange, ["A", "A"], publisher_sequence=41, publisher_session="file", publish_timestamp=MICROS)
    with Publisher(settings, profiles, exchange, publisher_session="run-1") as publisher:
        publisher.publish("ticks", rows)
        half = rows.set_column(
            rows.schema.get_field_index("publisher_sequence"), "publisher_sequence", pa.array([1, None], pa.int64())
        )
        with pytest.raises(ConfigurationError, match="publisher_sequence was null in 1 of 2"):
            publisher.publish("ticks", half)
    rows_read = [decoded(one) for one in read_topic(topic_name("ticks", exchange))]
    assert [(one["publisher_session"], one["publisher_sequence"]) for one in rows_read] == [("file", 41)] * 2


def test_original_bytes_are_sent_again_with_their_origin(
    settings: Settings, new_exchange: MakeProfiles, read_topic: ReadTopic
) -> None:
    profiles, exchange = new_exchange(ticks="dense")
    with Publisher(settings, profiles, exchange, publisher_session="run-1") as publisher:
        publisher.publish_framed("ticks", [b"k"], [b"not a message"], origin="reprocessed")
        with pytest.raises(ConfigurationError, match="origin was 'other'"):
            publisher.publish_framed("ticks", [b"k"], [b"x"], origin="other")
    assert read_topic(topic_name("ticks", exchange)) == [
        Read(murmur2(b"k", 2), b"k", b"not a message", [("k2-origin", b"reprocessed")])
    ]


def test_json_messages_are_published_too(settings: Settings, new_exchange: MakeProfiles, read_topic: ReadTopic) -> None:
    profiles, exchange = new_exchange(ticks="dense")
    with Publisher(settings, profiles, exchange, publisher_session="run-1", wire="json") as publisher:
        publisher.publish("ticks", ticks(exchange, ["A"]))
    (message,) = read_topic(topic_name("ticks", exchange))
    with closing(Registry(settings)) as registry:
        schema = registry.schema(int.from_bytes(message.value[1:5], "big"))
    assert schema.kind == "JSON"
    assert b'"publisher_sequence":1' in message.value


def test_a_full_local_queue_holds_the_caller_back_and_loses_nothing(
    settings: Settings, new_exchange: MakeProfiles, read_topic: ReadTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "LOCAL_QUEUE_MESSAGES", 50)
    profiles, exchange = new_exchange(ticks="dense")
    with Publisher(settings, profiles, exchange, publisher_session="run-1") as publisher:
        assert publisher.publish("ticks", ticks(exchange, ["A", "B"] * 1_000)) == 2_000
    assert len(read_topic(topic_name("ticks", exchange))) == 2_000


def test_what_was_accepted_is_delivered_when_the_block_is_left_by_ctrl_c(
    settings: Settings, new_exchange: MakeProfiles, read_topic: ReadTopic
) -> None:
    profiles, exchange = new_exchange(ticks="dense")

    def interrupted() -> None:
        with Publisher(settings, profiles, exchange, publisher_session="run-1") as publisher:
            publisher.publish("ticks", ticks(exchange, ["A"] * 500))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(read_topic(topic_name("ticks", exchange))) == 500


def test_a_message_that_is_too_large_is_a_delivery_failure(settings: Settings, new_exchange: MakeProfiles) -> None:
    profiles, exchange = new_exchange(ticks="dense")
    with (
        Publisher(settings, profiles, exchange, publisher_session="run-1") as publisher,
        pytest.raises(DeliveryFailed, match="too large"),
    ):
        publisher.publish_framed("ticks", [b"k"], [b"x" * 2_000_000])


def test_rows_beyond_the_limit_of_the_topic_are_refused_and_the_others_go_on(
    settings: Settings, make_profiles: MakeProfiles, read_topic: ReadTopic
) -> None:
    profiles, exchange = make_profiles(ticks="dense")
    create_topic(settings, NewTopic(topic_name("ticks", exchange), 2, 1, config={"max.message.bytes": "4000"}))
    create_topic(settings, NewTopic(topic_name("control", exchange), 1, 1))
    create_topic(settings, NewTopic(topic_name("instruments", exchange), 1, 1))
    rows = ticks(exchange, ["A"] * 200)
    long = pa.array(["x" * 5_000 if place == 70 else None for place in range(200)])
    rows = rows.set_column(rows.schema.get_field_index("refers_to"), "refers_to", long)
    with Publisher(settings, profiles, exchange, publisher_session="run-1") as publisher:
        # 200 rows are more than one batch of 4,000 bytes
        assert publisher.publish("ticks", rows, kept_in=lambda row: f"somewhere:{row}") == 199
        assert (publisher.accepted["ticks"], publisher.too_large) == (199, 1)
    messages = read_topic(topic_name("ticks", exchange))
    assert len(messages) == 200
    (refused,) = [read_refused(one.headers) for one in messages if not one.value]
    assert refused is not None
    assert refused.identity == VenueIdentity("ticks_stream", "trade", "A", sequence=70)
    assert (refused.publisher_session, refused.publisher_sequence) == ("run-1", 71)
    assert refused.source == "somewhere:70"


def test_a_delivery_that_fails_later_is_raised_by_flush(settings: Settings, new_exchange: MakeProfiles) -> None:
    """The topic's limit is lowered after the publisher has asked for it."""
    profiles, exchange = new_exchange(ticks="dense")
    topic = topic_name("ticks", exchange)
    publisher = Publisher(settings, profiles, exchange, publisher_session="run-1")
    publisher.publish("ticks", ticks(exchange, ["A"]))
    publisher.flush(30)
    lower = ConfigEntry("max.message.bytes", "1000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[lower])
    admin = AdminClient(client_config(settings))
    admin.incremental_alter_configs([resource])[resource].result()
    assert publisher.publish_framed("ticks", [b"k"], [os.urandom(10_000)]) == 1
    with pytest.raises(DeliveryFailed, match=f"1 accepted messages.*{topic} key k"):
        publisher.flush(30)
    assert publisher.undelivered == 1
    publisher.close()


def publisher_without_kafka(
    settings: Settings, new_exchange: MakeProfiles, monkeypatch: pytest.MonkeyPatch, waiting: Waiting
) -> tuple[Publisher, str]:
    """A publisher whose topics were there when it started, and whose brokers are away now."""
    profiles, exchange = new_exchange(ticks="dense")
    publisher = Publisher(settings, profiles, exchange, publisher_session="run-1")
    publisher.publish("ticks", ticks(exchange, ["A"]))
    publisher.flush(30)
    nowhere = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    vars(publisher)["_delivery"] = delivery.Delivery(nowhere, 1_000_000, waiting)
    return publisher, exchange


def test_a_delivery_that_times_out_is_worth_another_try_and_is_counted(
    settings: Settings, new_exchange: MakeProfiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "DELIVERY_TIMEOUT_SECONDS", 1.0)
    told: list[int] = []
    monkeypatch.setattr(delivery, "SILENCE_SECONDS", 0.2)
    publisher, exchange = publisher_without_kafka(settings, new_exchange, monkeypatch, Waiting(told.append))
    assert publisher.publish("ticks", ticks(exchange, ["A"] * 300)) == 300
    with pytest.raises(DeliveryTimedOut, match="did not take 300 accepted messages"):
        publisher.close()
    assert (publisher.accepted["ticks"], publisher.undelivered) == (301, 300)
    assert set(told) == {300}


@pytest.mark.parametrize("queue", [100_000, 100], ids=["closing", "waiting for room"])
def test_who_gives_up_learns_how_many_were_not_delivered(
    settings: Settings, new_exchange: MakeProfiles, monkeypatch: pytest.MonkeyPatch, queue: int
) -> None:
    monkeypatch.setattr(delivery, "LOCAL_QUEUE_MESSAGES", queue)
    waiting = Waiting(lambda _: waiting.give_up.set())
    publisher, exchange = publisher_without_kafka(settings, new_exchange, monkeypatch, waiting)
    monkeypatch.setattr(delivery, "SILENCE_SECONDS", 0.2)
    started = time.monotonic()

    def publish() -> None:
        with publisher:
            publisher.publish("ticks", ticks(exchange, ["A"] * 300))

    with pytest.raises(DeliveryTimedOut):
        publish()
    assert publisher.undelivered == min(queue, 300)
    assert publisher.accepted["ticks"] == 1 + publisher.undelivered
    assert time.monotonic() - started < 10


def test_every_topic_is_checked_before_a_subject_is_registered_or_a_message_sent(
    settings: Settings, make_profiles: MakeProfiles
) -> None:
    profiles, exchange = make_profiles(ticks="dense", quotes="none")
    publisher = Publisher(settings, profiles, exchange, publisher_session="run-1")
    create_topic(settings, NewTopic(topic_name("ticks", exchange), 2, 1))
    create_topic(settings, NewTopic(topic_name("quotes", exchange), 3, 1))
    with pytest.raises(NotInitialized, match=f"market.control.{exchange}.*\n.*run `k2 init`"):
        publisher.publish("ticks", ticks(exchange, ["A"]))
    create_topic(settings, NewTopic(topic_name("control", exchange), 1, 1))
    create_topic(settings, NewTopic(topic_name("instruments", exchange), 1, 1))
    told = f"market.quotes.{exchange} has 3, its profile declares 2"
    with pytest.raises(PartitionCountChanged, match=told):
        publisher.publish("ticks", ticks(exchange, ["A"]))
    with pytest.raises(PartitionCountChanged, match=told):
        publisher.publish_framed("ticks", [b"k"], [b"x"])
    publisher.close()
    with closing(Registry(settings)) as registry:
        assert registry.latest(f"{topic_name('ticks', exchange)}-value") is None
    assert watermarks(settings, topic_name("ticks", exchange), 2) == {0: (0, 0), 1: (0, 0)}
