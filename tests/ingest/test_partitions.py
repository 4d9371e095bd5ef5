"""A topic whose partition count is not the one that its profile declares."""

from dataclasses import replace

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from k2_dagster.devstack.process import wait_until
from k2_dagster.errors import PartitionCountChanged
from k2_dagster.ingest.status import stream_statuses
from k2_dagster.kafka.clients import client_config
from k2_dagster.kafka.topics import describe
from tests.ingest.conftest import VISIBLE_SECONDS, Exchange

pytestmark = pytest.mark.stack


def with_partitions(exchange: Exchange, count: int) -> Exchange:
    """The same exchange with another profile."""
    profile = exchange.profiles.exchange(exchange.name).model_copy(update={"partitions": count})
    return replace(exchange, profiles=exchange.profiles.model_copy(update={"exchanges": {exchange.name: profile}}))


def assert_refused(exchange: Exchange, told: str) -> None:
    with pytest.raises(PartitionCountChanged, match=told) as stopped:
        exchange.drain()
    assert "If the profile was changed, put it back" in stopped.value.advice
    assert "If the topic was altered" in stopped.value.advice
    problems = {
        one.dataset: one.problem for one in stream_statuses(exchange.settings, exchange.profiles, [exchange.name])
    }
    assert told in problems["ticks"]
    assert problems["control"] == ""


def test_a_changed_profile_stops_the_stream_before_it_reads(exchange: Exchange) -> None:
    exchange.publish([exchange.tick()])

    assert_refused(with_partitions(exchange, 3), f"{exchange.topic} has 2, its profile declares 3")
    assert exchange.positions() == []

    exchange.drain()
    assert len(exchange.positions()) == 1


def test_an_altered_topic_stops_the_stream_before_and_after_its_first_message(exchange: Exchange) -> None:
    exchange.publish([exchange.tick()])
    admin = AdminClient(client_config(exchange.settings))
    admin.create_partitions([NewPartitions(exchange.topic, 4)])[exchange.topic].result(20)
    assert wait_until(
        lambda: describe(exchange.settings, [exchange.topic])[exchange.topic].partitions == 4, VISIBLE_SECONDS
    )

    assert_refused(exchange, f"{exchange.topic} has 4, its profile declares 2")
