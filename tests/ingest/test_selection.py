"""Quarantined messages by stream, time and offset: listed newest first, and sent again a few at a time."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from pyiceberg.io.pyarrow import ArrowScan

from k2_dagster.devstack.process import wait_until
from k2_dagster.errors import NotInitialized
from k2_dagster.ingest import reprocess
from k2_dagster.ingest.reprocess import republish
from k2_dagster.ingest.selection import Place, Quarantine, Selection
from k2_dagster.kafka.clients import client_config, consumer_config
from k2_dagster.kafka.topics import describe
from tests.ingest.conftest import Exchange

pytestmark = pytest.mark.stack

ROUNDS = 4
# On each partition, per round; every round is a commit, and so a file, of its own.
BAD = 5
COLUMNS = ("kafka_partition", "kafka_offset", "kafka_timestamp")


@pytest.fixture
def refused(exchange: Exchange) -> Exchange:
    """Forty refused messages on two partitions, and good ones between them."""
    for _ in range(ROUNDS):
        for partition, symbol in ((0, "A"), (1, "B")):
            exchange.publish([one for _ in range(BAD) for one in (exchange.tick(symbol), b"junk")], partition)
        exchange.drain()
    return exchange


def selected(exchange: Exchange, **values: Any) -> Quarantine:
    return Quarantine(exchange.catalog, Selection(exchange=exchange.name, **values))


def offsets(rows: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(row["kafka_partition"], row["kafka_offset"]) for row in rows]


def test_the_newest_come_first_and_older_files_are_not_read(refused: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = refused.landed("quarantine")
    newest = sorted(everything, key=lambda one: (one["kafka_timestamp"], one["kafka_partition"], one["kafka_offset"]))
    read: list[str] = []
    plain = ArrowScan.to_record_batches

    def counted(self: ArrowScan, tasks: Any) -> Any:
        read.extend(task.file.file_path for task in tasks)
        return plain(self, tasks)

    monkeypatch.setattr(ArrowScan, "to_record_batches", counted)
    found = selected(refused).newest(COLUMNS, 7)
    assert offsets(found) == offsets(newest[::-1][:7])
    assert list(found[0]) == list(COLUMNS)
    assert 1 <= len(read) < ROUNDS
    assert len(selected(refused).newest(COLUMNS, 1_000)) == ROUNDS * 2 * BAD


def test_times_bound_what_is_selected(refused: Exchange) -> None:
    times = sorted(one["kafka_timestamp"] for one in refused.landed("quarantine"))
    middle = times[len(times) // 2]
    since, until = selected(refused, since=middle), selected(refused, until=middle)
    assert len(since.newest(COLUMNS, 1_000)) == sum(one >= middle for one in times)
    assert len(until.newest(COLUMNS, 1_000)) == sum(one < middle for one in times)
    assert selected(refused, since=datetime.now(UTC) + timedelta(days=1)).newest(COLUMNS, 10) == []


def test_a_name_with_a_quote_selects_nothing_and_breaks_nothing(refused: Exchange) -> None:
    assert Quarantine(refused.catalog, Selection(exchange="x' or 'a' = 'a")).whole() == []


def test_messages_of_one_partition_come_whole_and_in_order(refused: Exchange) -> None:
    wanted = np.array([1, 5, 7, 33], dtype=np.int64)
    rows = selected(refused).at(Place(refused.topic, 0, 1), wanted)
    assert offsets(rows) == [(1, at) for at in wanted]
    assert {row["value"] for row in rows} == {b"junk"}


def in_kafka(exchange: Exchange, first: int) -> dict[int, list[bytes | None]]:
    """Where the messages from this offset on were refused, by partition."""
    consumer = Consumer(consumer_config(exchange.settings))
    consumer.assign([TopicPartition(exchange.topic, partition, first) for partition in (0, 1)])
    out: dict[int, list[bytes | None]] = {0: [], 1: []}
    ended: set[int | None] = set()
    while len(ended) < 2:
        for message in consumer.consume(100, 1.0):
            if message.error() is not None:
                ended.add(message.partition())
                continue
            headers: Any = dict(message.headers() or [])
            out[int(message.partition() or 0)].append(headers.get("k2-refused-at"))
    consumer.close()
    return out


def test_all_go_out_in_order_a_few_at_a_time(refused: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reprocess, "WINDOW_MESSAGES", 3)
    most, plain = 0, Quarantine.at

    def watched(self: Quarantine, place: Place, offsets: Any) -> list[dict[str, Any]]:
        nonlocal most
        rows = plain(self, place, offsets)
        most = max(most, len(rows))
        return rows

    monkeypatch.setattr(Quarantine, "at", watched)
    told: list[tuple[int, int]] = []
    total = ROUNDS * 2 * BAD
    selection = Selection(exchange=refused.name)
    assert republish(refused.settings, refused.catalog, selection, lambda *one: told.append(one)) == total
    assert most == 3
    assert told[-1] == (total, total)
    expected = [f"0/{{}}/{at}" for at in range(1, 2 * BAD * ROUNDS, 2)]
    assert in_kafka(refused, 2 * BAD * ROUNDS) == {
        partition: [one.format(partition).encode() for one in expected] for partition in (0, 1)
    }


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({"partition": 1}, ROUNDS * BAD),
        ({"partition": 0, "first_offset": 10, "last_offset": 19}, BAD),
        ({"first_offset": 39}, 2),
        ({"reason": "rule_violated"}, 0),
        ({"dataset": "ticks"}, 2 * ROUNDS * BAD),
        ({"topic": "market.ticks.elsewhere"}, 0),
    ],
)
def test_a_range_goes_out_alone(refused: Exchange, values: dict[str, Any], count: int) -> None:
    selection = Selection(exchange=refused.name, **values)
    assert republish(refused.settings, refused.catalog, selection) == count


def test_a_topic_that_is_gone_is_told_before_anything_goes_out(refused: Exchange) -> None:
    admin = AdminClient(client_config(refused.settings))
    admin.delete_topics([refused.topic])[refused.topic].result(20)
    assert wait_until(lambda: describe(refused.settings, [refused.topic]) == {}, 20)
    with pytest.raises(NotInitialized, match=refused.topic):
        republish(refused.settings, refused.catalog, Selection(exchange=refused.name))
