"""What Kafka's client says of itself goes to our log, at a level that says what it is worth."""

import logging
import time
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from k2_dagster.kafka.batch import Gathering
from k2_dagster.kafka.clients import client_config, consumer_config, log_line, producer_config
from k2_dagster.kafka.native import NativeClient
from k2_dagster.settings import Settings

NOWHERE = Settings(kafka_bootstrap_servers="127.0.0.1:1")
CONNECT_SECONDS = 10.0


def _producer() -> None:
    Producer(producer_config(NOWHERE)).poll(0.1)


def _consumer() -> None:
    consumer = Consumer(consumer_config(NOWHERE))
    consumer.poll(0.1)
    consumer.close()


def _admin() -> None:
    with pytest.raises(KafkaException):
        AdminClient(client_config(NOWHERE)).list_topics(timeout=0.2)


def _native() -> None:
    client = NativeClient(NOWHERE, "topic", {0: 0})
    client.poll(Gathering(1), 1, 0.1)
    client.close()


@pytest.mark.parametrize("use", [_producer, _consumer, _admin, _native], ids=lambda one: one.__name__)
def test_no_client_writes_to_standard_error(use: Callable[[], None], capfd: pytest.CaptureFixture[str]) -> None:
    use()
    time.sleep(0.2)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("native", [False, True], ids=["confluent", "native"])
def test_a_refused_connection_is_an_event_for_whoever_looks_closer(
    native: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "k2_dagster.kafka.clients")
    producer, client = Producer(producer_config(NOWHERE)), NativeClient(NOWHERE, "topic", {0: 0})
    deadline = time.monotonic() + CONNECT_SECONDS
    try:
        while not (found := [one for one in caplog.records if ("consumer" in vars(one)["client"]) is native]):
            assert time.monotonic() < deadline, "the client says nothing"
            client.poll(Gathering(1), 1, 0.05)
            producer.poll(0.05)
    finally:
        client.close()
    assert (found[0].levelname, found[0].getMessage(), vars(found[0])["facility"]) == ("DEBUG", "kafka client", "FAIL")
    assert "127.0.0.1:1" in vars(found[0])["said"]


@pytest.mark.parametrize(
    ("level", "facility", "ours"),
    [
        (logging.CRITICAL, "FATAL", "ERROR"),
        (logging.ERROR, "MAXPOLL", "WARNING"),
        (logging.WARNING, "CONFWARN", "WARNING"),
        (logging.INFO, "GETSUBSCRIPTIONS", "DEBUG"),
        (logging.ERROR, "FAIL", "DEBUG"),
    ],
)
def test_levels(level: int, facility: str, ours: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "k2_dagster.kafka.clients")
    log_line(level, facility, "rdkafka#1", "said")
    assert [one.levelname for one in caplog.records] == [ours]
