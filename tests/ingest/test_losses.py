"""What Kafka lost before it landed: the drain stops, names the range, and goes on once a person has accepted it."""

import json
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from k2_dagster.ingest.drain import StreamDrain

from k2_dagster.errors import LogShrunk, RetentionOverrun, TopicRecreated
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.losses import accept_losses
from k2_dagster.kafka.clients import client_config
from k2_dagster.kafka.topics import describe
from k2_dagster.lake.catalog import load_table
from k2_dagster.lake.fence import position_key, read_fence
from k2_dagster.verify.proof import verify
from tests.ingest.conftest import Exchange

pytestmark = pytest.mark.stack


def test_a_recreated_topic_stops_the_drain_until_the_loss_is_accepted(exchange: Exchange) -> None:
    exchange.publish([exchange.tick() for _ in range(3)])
    exchange.drain()
    old = describe(exchange.settings, [exchange.topic])[exchange.topic].topic_id
    exchange.remake_topic()
    exchange.publish([exchange.tick() for _ in range(2)])
    with pytest.raises(TopicRecreated) as stopped:
        exchange.drain()
    assert stopped.value.fields["old_topic_id"] == old
    assert stopped.value.fields["ranges"][f"{old}:0"] == 3
    accept(exchange)
    exchange.drain()
    assert [(one["topic_epoch"], one["kafka_offset"], one["sequence"]) for one in exchange.landed()] == [
        *((0, at, at + 1) for at in range(3)),
        *((1, at, at + 4) for at in range(2)),
    ]


def accept(exchange: Exchange) -> list[dict[str, Any]]:
    return accept_losses(exchange.settings, exchange.name, "ticks", accepted_by="a tester", reason="a test")


def test_a_topic_recreated_before_anything_landed_stops_the_drain_too(exchange: Exchange) -> None:
    """What the old one held was never read, and nobody can tell how much it was."""
    exchange.publish([exchange.tick() for _ in range(3)])
    with Connections.open(exchange.settings, exchange.profiles) as connections:
        stream = StreamDrain(connections, exchange.name, "ticks", "test")
        stream._open()
        stream.close()
    exchange.remake_topic()
    exchange.publish([exchange.tick() for _ in range(2)])
    with pytest.raises(TopicRecreated):
        exchange.drain()
    accept(exchange)
    exchange.drain()
    assert [one["sequence"] for one in exchange.landed()] == [4, 5]


def test_more_that_is_lost_before_the_next_commit_is_accepted_on_top(exchange: Exchange) -> None:
    exchange.publish([exchange.tick() for _ in range(3)])
    exchange.drain()
    admin = AdminClient(client_config(exchange.settings))
    for first, end in ((3, 10), (10, 20)):
        exchange.publish([exchange.tick() for _ in range(end - first)])
        for deletion in admin.delete_records([TopicPartition(exchange.topic, 0, end)]).values():
            deletion.result(20)
        assert [(one["first_offset"], one["next_offset"]) for one in accept(exchange)] == [(first, end)]
    exchange.publish([exchange.tick() for _ in range(2)])
    exchange.drain()
    assert exchange.positions() == [(0, at) for at in (0, 1, 2, 20, 21)]
    assert accept(exchange) == []
    assert verify(exchange.settings, exchanges=[exchange.name]).clean


def test_messages_that_kafka_deleted_stop_the_drain_until_the_loss_is_accepted(exchange: Exchange) -> None:
    exchange.publish([exchange.tick() for _ in range(3)])
    exchange.drain()
    exchange.publish([exchange.tick() for _ in range(4)])
    admin = AdminClient(client_config(exchange.settings))
    for deletion in admin.delete_records([TopicPartition(exchange.topic, 0, 5)]).values():
        deletion.result(20)
    with pytest.raises(RetentionOverrun) as stopped:
        exchange.drain()
    fields = stopped.value.fields
    assert (fields["partition"], fields["first_offset"], fields["next_offset"]) == (0, 3, 5)
    assert [(one["first_offset"], one["next_offset"], one["cause"]) for one in accept(exchange)] == [
        (3, 5, "retention_overrun")
    ]
    exchange.drain()
    assert exchange.positions() == [(0, at) for at in (0, 1, 2, 5, 6)]


def test_a_log_that_shrank_stops_the_drain_and_loses_nothing_more_once_accepted(exchange: Exchange) -> None:
    """As after an unclean election: the table holds offsets up to 10, the log ends at 3."""
    exchange.publish([exchange.tick() for _ in range(3)])
    exchange.drain()
    pretend_more_landed(exchange, 10)
    with pytest.raises(LogShrunk) as stopped:
        exchange.drain()
    fields = stopped.value.fields
    assert (fields["partition"], fields["first_offset"], fields["next_offset"]) == (0, 10, 3)
    accept(exchange)
    for count in (2, 3, 4):  # the last ones go beyond the old fence
        exchange.publish([exchange.tick() for _ in range(count)])
        exchange.drain()
    assert [(one["topic_epoch"], one["kafka_offset"]) for one in exchange.landed()] == [
        *((0, at) for at in range(3)),
        *((1, at) for at in range(3, 12)),
    ]


def pretend_more_landed(exchange: Exchange, end: int) -> None:
    """Move the fence of partition 0 ahead, as if messages had been there."""
    fence = read_fence(load_table(exchange.catalog, "market_data.ticks").metadata)
    topic_id = describe(exchange.settings, [exchange.topic])[exchange.topic].topic_id
    key, stream = position_key(topic_id, 0), f"{exchange.name}/ticks"
    commit_id = fence.heads[stream]
    # the same commit id once more, so that its tracker state is found; the lineage must not name it before
    table = load_table(exchange.catalog, "market_data.ticks")
    body = json.loads(table.properties["k2.fence"])
    body["vector"][key] = end
    with table.transaction() as transaction:
        transaction.set_properties({"k2.fence": json.dumps(body)})
        with transaction.update_snapshot(
            snapshot_properties={
                "k2.op": "ingest",
                "k2.commit-id": commit_id,
                "k2.stamp": fence.stamp.isoformat() if fence.stamp else "",
                "k2.fence": json.dumps(body["vector"]),
            }
        ).fast_append():
            pass
