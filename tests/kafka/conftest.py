"""A broker to talk to, and topics that no other test has."""

import uuid
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from k2_dagster.devstack.process import wait_until
from k2_dagster.devstack.stack import Stack
from k2_dagster.kafka.clients import client_config
from k2_dagster.kafka.topics import describe, watermarks
from k2_dagster.settings import Settings, load_settings

MakeTopic = Callable[[int], str]
# A broker hears of a new topic after the controller has confirmed it; a loaded machine takes its time.
VISIBLE_SECONDS = 20.0


@pytest.fixture(scope="session")
def kafka_settings(stack: Stack) -> Settings:
    """Settings for the shared broker and registry; their databases and warehouse are not for these tests."""
    return load_settings(stack.settings_environment())


@pytest.fixture(scope="session")
def admin(kafka_settings: Settings) -> AdminClient:
    return AdminClient(client_config(kafka_settings))


@pytest.fixture
def make_topic(kafka_settings: Settings, admin: AdminClient) -> Iterator[MakeTopic]:
    """Makes a topic of so many partitions; deleted after the test."""
    made: list[str] = []

    def make(partitions: int) -> str:
        made.append(f"test.{uuid.uuid4().hex[:12]}")
        topic = NewTopic(made[-1], partitions, 1, config={"message.timestamp.type": "LogAppendTime"})
        admin.create_topics([topic])[made[-1]].result(10)
        assert wait_until(lambda: made[-1] in describe(kafka_settings, made), VISIBLE_SECONDS)
        watermarks(kafka_settings, made[-1], partitions)  # waits for leaders
        return made[-1]

    yield make
    if made:
        for deletion in admin.delete_topics(made).values():
            deletion.exception(10)
