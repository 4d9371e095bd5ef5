"""Topics on a real broker: described, created, confirmed, refused."""

import uuid
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic  # type: ignore[attr-defined]

from k2_dagster.devstack.process import wait_until
from k2_dagster.errors import ConfigurationError, NotInitialized, PartitionCountChanged
from k2_dagster.kafka.clients import producer_config
from k2_dagster.kafka.topics import all_watermarks, describe, ensure_topics, watermarks
from k2_dagster.schemas.profiles import ExchangeProfile, Profiles
from k2_dagster.settings import Settings

pytestmark = pytest.mark.stack

MakeTopic = Callable[[int], str]
MARKER_SECONDS = 20.0


def profiles_of(exchange: str, partitions: int) -> Profiles:
    profile = ExchangeProfile.model_validate(
        {
            "title": "Test",
            "asset_class": "crypto",
            "calendar": "24/7",
            "timezone": "UTC",
            "entitlement_class": "public",
            "partitions": partitions,
            "on_critical_gap": "halt",
            "streams": {"trade": {"dataset": "ticks", "domain": "dense"}},
        }
    )
    return Profiles(version=1, exchanges={exchange: profile})


@pytest.fixture
def exchange(admin: AdminClient) -> Iterator[str]:
    """A name that no other test has; its topics are deleted after the test."""
    name = f"t{uuid.uuid4().hex[:10]}"
    yield name
    topics = [f"market.{dataset}.{name}" for dataset in ("ticks", "control", "instruments")]
    for deletion in admin.delete_topics(topics).values():
        deletion.exception(10)


def test_ensure_creates_then_confirms(kafka_settings: Settings, exchange: str, admin: AdminClient) -> None:
    profiles, topic = profiles_of(exchange, 3), f"market.ticks.{exchange}"
    first = ensure_topics(kafka_settings, profiles, [exchange])
    assert [(one.topic, one.action, one.partitions) for one in first] == [
        (topic, "created", 3),
        (f"market.control.{exchange}", "created", 1),
        (f"market.instruments.{exchange}", "created", 1),
    ]
    assert {one.action for one in ensure_topics(kafka_settings, profiles, [exchange])} == {"confirmed"}
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    config = admin.describe_configs([resource])[resource].result(10)
    assert config["message.timestamp.type"].value == "LogAppendTime"
    assert config["retention.ms"].value == str(kafka_settings.kafka_retention_hours * 3_600_000)
    assert config["unclean.leader.election.enable"].value == "false"


def test_a_topic_that_is_configured_otherwise_is_told_and_left_as_it_is(
    kafka_settings: Settings, exchange: str, admin: AdminClient
) -> None:
    profiles, topic = profiles_of(exchange, 1), f"market.ticks.{exchange}"
    config = {"retention.ms": "1000", "message.timestamp.type": "CreateTime", "unclean.leader.election.enable": "true"}
    admin.create_topics([NewTopic(topic, 1, 1, config=config)])[topic].result(10)
    assert wait_until(lambda: topic in describe(kafka_settings, [topic]), MARKER_SECONDS)
    hours = kafka_settings.kafka_retention_hours

    told = {one.topic: one.differences for one in ensure_topics(kafka_settings, profiles, [exchange])}

    assert told[topic] == (
        "message.timestamp.type is CreateTime, would be LogAppendTime",
        f"retention.ms is 1000, would be {hours * 3_600_000}",
        "unclean.leader.election.enable is true, would be false",
    )
    assert told[f"market.control.{exchange}"] == ()
    more = kafka_settings.model_copy(update={"kafka_replication_factor": 3})
    assert ensure_topics(more, profiles, [exchange])[1].differences == (
        "min.insync.replicas is 1, would be 2",
        "replication factor is 1, would be 3",
    )


def test_another_partition_count_is_refused_with_the_way_to_do_it(kafka_settings: Settings, exchange: str) -> None:
    ensure_topics(kafka_settings, profiles_of(exchange, 2), [exchange])
    with pytest.raises(PartitionCountChanged) as caught:
        ensure_topics(kafka_settings, profiles_of(exchange, 4), [exchange])
    said = str(caught.value)
    assert f"market.ticks.{exchange} has 2, its profile declares 4" in said
    assert "hand-over offset" in said
    assert "control" not in said


def test_an_unknown_exchange_creates_nothing(kafka_settings: Settings, exchange: str) -> None:
    with pytest.raises(ConfigurationError, match="valid"):
        ensure_topics(kafka_settings, profiles_of(exchange, 1), [exchange, "nowhere"])
    assert describe(kafka_settings, [f"market.ticks.{exchange}"]) == {}


def test_more_replicas_than_brokers_is_a_configuration_error(kafka_settings: Settings, exchange: str) -> None:
    greedy = kafka_settings.model_copy(update={"kafka_replication_factor": 9})
    with pytest.raises(ConfigurationError, match="K2_KAFKA_REPLICATION_FACTOR"):
        ensure_topics(greedy, profiles_of(exchange, 1), [exchange])


def test_describe_leaves_out_what_is_missing(kafka_settings: Settings, make_topic: MakeTopic) -> None:
    one, other = make_topic(3), make_topic(1)
    found = describe(kafka_settings, [one, "test.not-there", other])
    assert {name: state.partitions for name, state in found.items()} == {one: 3, other: 1}
    assert found[one].topic_id != found[other].topic_id
    assert len(found[one].topic_id) == 22
    assert describe(kafka_settings, []) == {}


def test_watermarks_of_all_partitions(kafka_settings: Settings, make_topic: MakeTopic) -> None:
    one, other = make_topic(3), make_topic(1)
    producer = Producer(producer_config(kafka_settings))
    for number in range(5):
        producer.produce(one, b"x", partition=number % 2)
    assert producer.flush(10) == 0
    assert watermarks(kafka_settings, one, 3) == {0: (0, 3), 1: (0, 2), 2: (0, 0)}
    assert all_watermarks(kafka_settings, {one: 2, other: 1}) == {one: {0: (0, 3), 1: (0, 2)}, other: {0: (0, 0)}}
    with pytest.raises(NotInitialized, match="no partition 3"):
        watermarks(kafka_settings, one, 4)
    with pytest.raises(NotInitialized, match=r"test\.not-there has no partition 0"):
        watermarks(kafka_settings, "test.not-there", 1)


def test_the_end_stays_before_an_open_transaction(kafka_settings: Settings, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    producer = Producer({**producer_config(kafka_settings), "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"x", partition=0)
    producer.flush(10)
    assert watermarks(kafka_settings, topic, 1) == {0: (0, 0)}
    producer.commit_transaction(30)
    # The coordinator writes the marker after it has confirmed the commit
    assert wait_until(lambda: watermarks(kafka_settings, topic, 1) == {0: (0, 2)}, MARKER_SECONDS)
