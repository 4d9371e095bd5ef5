"""The drain loop on real Kafka, PostgreSQL and files: killed at every point, and faced with a topic that changed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from sqlalchemy import select

from k2_dagster.errors import FenceMoved, InputLost, LogShrunk, RetentionOverrun, SchemaUnknown, TopicRecreated
from k2_dagster.ingest import drain as drain_module
from k2_dagster.ingest.drain import Connections, StreamDrain
from k2_dagster.ingest.losses import accept_losses
from k2_dagster.kafka.clients import client_config
from k2_dagster.kafka.topics import describe, watermarks
from k2_dagster.lake.append import Append
from k2_dagster.lake.catalog import load_table
from k2_dagster.lake.fence import position_key, read_fence
from k2_dagster.observability.points import POINTS
from k2_dagster.settings import as_environment
from k2_dagster.state.gaps import open_gaps
from k2_dagster.state.tables import attempts, commits
from tests.ingest.conftest import Exchange
from tests.ingest.helpers import framed

pytestmark = pytest.mark.stack

REPOSITORY = Path(__file__).parents[2]
BATCH_ROWS = 8
CHILD_SECONDS = 120


def publish_mixture(exchange: Exchange) -> None:
    """40 messages on two partitions: a gap of two, a swap, duplicates, damage, a hole that is filled late."""
    first = [exchange.tick("A") for _ in range(20)]
    missing = {4, 5}
    sent = [one for at, one in enumerate(first) if at not in missing]
    sent[9], sent[10] = sent[10], sent[9]
    sent += [first[0], first[12], b"junk", first[15][:-4], first[4]]
    exchange.publish(sent, 0)
    exchange.publish([exchange.tick("B", price=0 if at == 7 else 500) for at in range(17)], 1)


def small_batches(exchange: Exchange) -> Any:
    return exchange.settings.model_copy(update={"ingest_batch_rows": BATCH_ROWS, "snapshots_kept": 2})


def outcome(exchange: Exchange) -> Any:
    """What the drain left, without what may differ: times, ids, and how the topic was cut into batches."""
    rows = [(one["kafka_partition"], one["kafka_offset"], one["symbol"], one["sequence"]) for one in exchange.landed()]
    refused = [(one["kafka_partition"], one["kafka_offset"], one["reason"]) for one in exchange.landed("quarantine")]
    names = ("symbol", "numbering", "first_sequence", "last_sequence", "missing", "filled", "state", "opened_offset")
    gaps = [tuple(one[name] for name in names) for one in open_gaps(exchange.database, "ticks", exchange.name)]
    return rows, refused, sorted(gaps)


def assert_tiled(exchange: Exchange) -> None:
    """Commits of the data table tile each partition, and their counts are those of the tables."""
    ends: dict[int, int] = {}
    rows = quarantined = consumed = 0
    with exchange.database.begin() as connection:
        found = connection.execute(select(commits).where(commits.c.dataset == "ticks").order_by(commits.c.position))
        ranges = [one for row in found if row.table_name == "market_data.ticks" for one in row.ranges]
    for one in ranges:
        assert one["start"] == ends.get(one["partition"], 0)
        assert one["consumed"] == one["rows"] + one["quarantined"]
        ends[one["partition"]] = one["end"]
        rows, quarantined, consumed = rows + one["rows"], quarantined + one["quarantined"], consumed + one["consumed"]
    assert rows == len(exchange.positions())
    assert quarantined == len(exchange.positions("quarantine"))
    assert consumed == rows + quarantined


def assert_each_once(exchange: Exchange, offsets: dict[int, int]) -> None:
    """Every message is in exactly one place."""
    wanted = [(partition, offset) for partition, count in offsets.items() for offset in range(count)]
    assert sorted(exchange.positions() + exchange.positions("quarantine")) == wanted


def test_a_topic_lands_whole(exchange: Exchange) -> None:
    publish_mixture(exchange)
    report = exchange.drain()
    assert report.caught_up
    rows, refused, gaps = outcome(exchange)
    assert_each_once(exchange, {0: 23, 1: 17})
    assert_tiled(exchange)
    assert (report.rows, report.quarantined) == (len(rows), len(refused))
    assert [(partition, reason) for partition, _, reason in refused] == [
        *((0, one) for one in ("duplicate", "duplicate", "not_framed", "undecodable")),
        (1, "rule_violated"),
    ]
    assert gaps == [("A", "venue", 5, 6, 2, 1, "open", 4)]
    assert exchange.drain().commits == 0


def killed(exchange: Exchange, point: str, nth: int) -> int:
    """Drain in a process of its own that kills itself; returns its exit code."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("K2_")}
    environment |= as_environment(small_batches(exchange))
    command = [sys.executable, "-m", "tests.ingest.killed_drain", point, str(nth), exchange.name]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, timeout=CHILD_SECONDS)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_and_drained_again_is_as_if_nothing_had_happened(exchange: Exchange, point: str) -> None:
    publish_mixture(exchange)
    codes = [killed(exchange, point, nth) for nth in (1, 2, 3)]
    assert -signal.SIGKILL in codes
    exchange.drain()
    assert_each_once(exchange, {0: 23, 1: 17})
    assert_tiled(exchange)
    assert outcome(exchange)[2] == [("A", "venue", 5, 6, 2, 1, "open", 4)]
    with exchange.database.begin() as connection:
        left = connection.execute(select(attempts.c.id).where(attempts.c.state.is_not(None))).scalars().all()
        heads = read_fence(load_table(exchange.catalog, "market_data.ticks").metadata).heads
    assert heads[f"{exchange.name}/ticks"] in left


def test_two_drains_that_each_move_another_partition_do_not_both_land(exchange: Exchange) -> None:
    """Each would leave a tracker state that knows nothing of the other's messages."""
    exchange.publish([exchange.tick("A") for _ in range(3)], 0)
    exchange.drain()
    with Connections.open(exchange.settings, exchange.profiles) as connections:
        streams = [StreamDrain(connections, exchange.name, "ticks", "test") for _ in range(2)]
        opened = [stream._open() for stream in streams]
        exchange.publish([exchange.tick("A") for _ in range(3)], 0)
        batches = []
        for stream, position, symbol in zip(streams, opened, "AB", strict=True):
            if symbol == "B":
                exchange.publish([exchange.tick("B")], 1)
            raw = stream.read()
            while not any(raw.positions[key] > at for key, at in position.starts.items()):
                raw = stream.read()
            batches.append(raw)
        # the second stream sees its partition alone
        mine = replace(batches[1], positions={**batches[1].positions, 0: opened[1].starts[0]})
        keep = mine.partition == 1
        rows = [at for at, wanted in enumerate(keep.tolist()) if wanted]
        mine = replace(
            mine,
            partition=mine.partition[keep],
            offset=mine.offset[keep],
            timestamp_ms=mine.timestamp_ms[keep],
            keys=mine.keys.take(rows),
            values=mine.values.take(rows),
        )

        outcomes = [
            stream.judge(raw, dict(position.starts), Event())
            for stream, raw, position in zip(streams, (batches[0], mine), opened, strict=True)
        ]
        streams[0].commit(outcomes[0])
        with pytest.raises(FenceMoved):
            streams[1].commit(outcomes[1])
        for stream in streams:
            stream.close()
    exchange.drain()
    assert sorted(exchange.positions()) == [*((0, at) for at in range(6)), (1, 0)]
    assert exchange.positions("quarantine") == []


def test_aborted_messages_are_in_no_table_and_their_offsets_are_passed(exchange: Exchange) -> None:
    exchange.publish([exchange.tick(), exchange.tick()], transaction="commit")
    exchange.publish([exchange.tick(sequence=3, price=7)], transaction="abort")
    exchange.publish([exchange.tick(sequence=3)], transaction="commit")
    exchange.publish([exchange.tick(sequence=9)], transaction="abort")
    exchange.drain()
    assert exchange.positions() == [(0, 0), (0, 1), (0, 5)]
    topic_id = describe(exchange.settings, [exchange.topic])[exchange.topic].topic_id
    fence = read_fence(load_table(exchange.catalog, "market_data.ticks").metadata)
    assert fence.vector[position_key(topic_id, 0)] == watermarks(exchange.settings, exchange.topic, 2)[0][1]
    assert exchange.drain().commits == 0


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
    append = Append("market_data.ticks", fence.heads[stream], stream, {key: 3}, {key: end}, [])
    # the same commit id once more, so that its tracker state is found; the lineage must not name it before
    table = load_table(exchange.catalog, "market_data.ticks")
    body = json.loads(table.properties["k2.fence"])
    body["vector"][key] = end
    with table.transaction() as transaction:
        transaction.set_properties({"k2.fence": json.dumps(body)})
        with transaction.update_snapshot(
            snapshot_properties={
                "k2.op": "ingest",
                "k2.commit-id": append.commit_id,
                "k2.stamp": fence.stamp.isoformat() if fence.stamp else "",
                "k2.fence": json.dumps(body["vector"]),
            }
        ).fast_append():
            pass


def test_an_unknown_schema_waits_and_then_stops_without_moving_the_fence(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "SCHEMA_WAIT_SECONDS", 0.5)
    monkeypatch.setattr(drain_module, "SCHEMA_RETRY_SECONDS", 0.1)
    exchange.publish([exchange.tick(), framed(999_999, b"x")])
    with pytest.raises(SchemaUnknown) as stopped:
        exchange.drain()
    assert stopped.value.fields["schema_id"] == 999_999
    assert exchange.positions() == exchange.positions("quarantine") == []
    assert read_fence(load_table(exchange.catalog, "market_data.ticks").metadata).vector == {}


def test_a_topic_that_goes_away_is_an_error_that_names_it(exchange: Exchange) -> None:
    exchange.publish([exchange.tick()])
    exchange.drain()
    admin = AdminClient(client_config(exchange.settings))
    admin.delete_topics([exchange.topic])[exchange.topic].result(20)
    with pytest.raises(Exception, match=exchange.topic) as stopped:
        exchange.drain()
    assert not isinstance(stopped.value, InputLost) or stopped.value.fields["topic"] == exchange.topic
