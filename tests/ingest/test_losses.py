"""What Kafka lost before it landed: the drain stops, names the range, and goes on once a person has accepted it."""

import json
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from k2_dagster.devstack.process import wait_until
from k2_dagster.errors import InputLost, LogShrunk, LossUnseen, RetentionOverrun, TopicRecreated
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.losses import accept_losses, losses_token, seen_losses
from k2_dagster.ingest.lost import Lost
from k2_dagster.ingest.stream import StreamDrain
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
    """Accept what a look shows; both must say the same, and nothing may be left."""
    seen = seen_losses(exchange.settings, exchange.name, "ticks")
    out = accept_losses(
        exchange.settings, exchange.name, "ticks", accepted_by="a tester", reason="a test", expected=seen
    )
    accepted = [Lost(*(one[name] for name in Lost.__dataclass_fields__)) for one in out]
    assert sorted(accepted) == sorted(seen)
    assert seen_losses(exchange.settings, exchange.name, "ticks") == []
    return out


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
    for first, end in ((3, 10), (10, 20)):
        exchange.publish([exchange.tick() for _ in range(end - first)])
        delete_records(exchange, 0, end)
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
    delete_records(exchange, 0, 5)
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


def test_what_nobody_has_seen_is_not_accepted(exchange: Exchange) -> None:
    exchange.publish([exchange.tick() for _ in range(3)], 0)
    exchange.publish([exchange.tick("B") for _ in range(3)], 1)
    exchange.drain()
    exchange.publish([exchange.tick() for _ in range(4)], 0)
    exchange.publish([exchange.tick("B") for _ in range(4)], 1)
    assert seen_losses(exchange.settings, exchange.name, "ticks") == []
    delete_records(exchange, 0, 5)
    seen = seen_losses(exchange.settings, exchange.name, "ticks")
    delete_records(exchange, 1, 4)
    more = seen_losses(exchange.settings, exchange.name, "ticks")
    assert [(one.partition, one.first_offset, one.next_offset) for one in more] == [(0, 3, 5), (1, 3, 4)]
    assert losses_token(seen) != losses_token(more)
    with pytest.raises(LossUnseen, match="partition 1: offsets 3 to 3"):
        accept_losses(exchange.settings, exchange.name, "ticks", accepted_by="x", reason="y", expected=seen)
    delete_records(exchange, 0, 6)
    with pytest.raises(RetentionOverrun):
        exchange.drain()


def test_a_topic_that_is_gone_is_not_one_that_was_never_made(exchange: Exchange) -> None:
    admin = AdminClient(client_config(exchange.settings))
    exchange.publish([exchange.tick() for _ in range(3)])
    exchange.drain()
    admin.delete_topics([exchange.topic])[exchange.topic].result(20)
    assert wait_until(lambda: exchange.topic not in describe(exchange.settings, [exchange.topic]), 20)
    with pytest.raises(
        InputLost, match=r"does not exist any more; market_data\.ticks holds it up to partition 0 offset 3"
    ):
        exchange.drain()
    with pytest.raises(InputLost, match="accept-loss"):
        seen_losses(exchange.settings, exchange.name, "ticks")


def delete_records(exchange: Exchange, partition: int, before: int) -> None:
    admin = AdminClient(client_config(exchange.settings))
    for deletion in admin.delete_records([TopicPartition(exchange.topic, partition, before)]).values():
        deletion.result(20)


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
