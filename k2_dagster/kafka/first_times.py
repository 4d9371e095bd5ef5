"""How old the first message behind a position is, for many partitions with one client."""

import time
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaException, TopicPartition

from k2_dagster.kafka.clients import client_config, translate
from k2_dagster.kafka.ends import Place
from k2_dagster.settings import Settings

# A broker that answers at all gives the first message of a partition within this.
TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.1
POLL_MESSAGES = 500
# Of a partition nothing but its first message is wanted; a larger one comes all the same.
FETCH_BYTES = 16_384


def first_times(settings: Settings, starts: Mapping[Place, int]) -> dict[Place, int]:
    """Record time, in milliseconds since 1970, of the first message at or behind each offset; also of one whose
    transaction has not ended. A partition that gives none in time is left out.

    Raises KafkaUnavailable, ConfigurationError (refused).
    """
    if not starts:
        return {}
    config = {
        **client_config(settings),
        "group.id": "k2-assigned",  # required by librdkafka, never used: no subscribe, no commit
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_uncommitted",
        "fetch.message.max.bytes": FETCH_BYTES,
    }
    try:
        consumer = Consumer(config)
    except KafkaException as error:
        raise translate(error, "start a consumer") from error
    try:
        return _read(consumer, starts)
    except KafkaException as error:
        raise translate(error, "read the first messages") from error
    finally:
        consumer.close()


def _read(consumer: Consumer, starts: Mapping[Place, int]) -> dict[Place, int]:
    consumer.assign([TopicPartition(topic, partition, at) for (topic, partition), at in starts.items()])
    found: dict[Place, int] = {}
    refused: set[Place] = set()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(found) + len(refused) < len(starts) and time.monotonic() < deadline:
        for message in consumer.consume(POLL_MESSAGES, POLL_SECONDS):
            place = (str(message.topic()), int(message.partition() or 0))
            if message.error() is not None:
                refused |= {place} & starts.keys()
            elif place not in found:
                found[place] = message.timestamp()[1]
                consumer.pause([TopicPartition(*place)])
    return found
