"""The drain loop on real Kafka, PostgreSQL and files: killed at every point, and faced with a topic that changed."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from sqlalchemy import select

from k2_dagster.coverage.reading import one_look, read_received
from k2_dagster.errors import FenceMoved, InputLost, SchemaUnknown
from k2_dagster.ingest import drain as drain_module
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.stream import StreamDrain
from k2_dagster.kafka.clients import client_config
from k2_dagster.kafka.topics import describe, watermarks
from k2_dagster.lake import expiry
from k2_dagster.lake.catalog import load_table
from k2_dagster.lake.fence import position_key, read_fence
from k2_dagster.observability.points import POINTS
from k2_dagster.settings import as_environment
from k2_dagster.state.coverage_tables import resets
from k2_dagster.state.gaps import open_gaps
from k2_dagster.state.tables import attempts, commits
from tests.ingest.conftest import Exchange
from tests.ingest.helpers import framed

pytestmark = pytest.mark.stack

REPOSITORY = Path(__file__).parents[2]
BATCH_ROWS = 8
CHILD_SECONDS = 120


def publish_mixture(exchange: Exchange) -> None:
    """43 messages on two partitions: a gap of two, a swap, duplicates, damage, a hole that is filled late, a session
    that is long over when the next one comes."""
    first = [exchange.tick("A") for _ in range(20)]
    missing = {4, 5}
    sent = [one for at, one in enumerate(first) if at not in missing]
    sent[9], sent[10] = sent[10], sent[9]
    sent += [first[0], first[12], b"junk", first[15][:-4], first[4]]
    exchange.publish(sent, 0)
    exchange.trust_producers_clocks()
    long_ago = int((datetime.now(UTC) - timedelta(days=20)).timestamp() * 1000)
    old = [exchange.tick("B", sequence=one, session="old") for one in (1, 2, 3)]
    exchange.publish(old, 1, timestamp_ms=long_ago)
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


def covered(exchange: Exchange) -> Any:
    """What the ledger says beside gaps: intervals, holes, sessions."""
    with one_look(exchange.database) as connection:
        found = read_received(connection)
        parts = ("kafka_partition", "kafka_offset", "numbering", "previous_session", "session")
        began = [tuple(row[name] for name in parts) for row in connection.execute(select(resets)).mappings()]
    names = (
        "symbol",
        "session",
        "first_sequence",
        "last_sequence",
        "messages",
        "out_of_order",
        "duplicates",
        "is_open",
    )
    intervals = [tuple(one[name] for name in names) for one in found.intervals.to_pylist()]
    holes = [(one["symbol"], one["first_sequence"], one["cause"]) for one in found.holes.to_pylist()]
    return sorted(intervals), sorted(holes), began


COVERED = (
    [
        ("A", "", 1, 20, 21, 2, 2, True),
        ("B", "", 1, 17, 17, 0, 0, True),
        ("B", "old", 1, 3, 3, 0, 0, False),
    ],
    [("B", 8, "quarantined")],
    [(1, 3, "venue", "old", "")],
)


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
    assert_each_once(exchange, {0: 23, 1: 20})
    assert_tiled(exchange)
    assert (report.rows, report.quarantined) == (len(rows), len(refused))
    assert [(partition, reason) for partition, _, reason in refused] == [
        *((0, one) for one in ("duplicate", "duplicate", "not_framed", "undecodable")),
        (1, "rule_violated"),
    ]
    assert covered(exchange) == COVERED
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
    assert_each_once(exchange, {0: 23, 1: 20})
    assert_tiled(exchange)
    assert outcome(exchange)[2] == [("A", "venue", 5, 6, 2, 1, "open", 4)]
    assert covered(exchange) == COVERED
    with exchange.database.begin() as connection:
        left = connection.execute(select(attempts.c.id).where(attempts.c.state.is_not(None))).scalars().all()
        heads = read_fence(load_table(exchange.catalog, "market_data.ticks").metadata).heads
    assert heads[f"{exchange.name}/ticks"] in left


def test_snapshots_expire_however_few_commits_a_run_makes(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trickling exchange: each run makes one commit, and no run lives to see the snapshots gather."""
    monkeypatch.setattr(expiry, "EXPIRY_SLACK", 3)
    runs = 12
    for _ in range(runs):
        exchange.publish([exchange.tick(), b"junk"], 0)
        exchange.drain(settings=small_batches(exchange))
    for table in ("ticks", "quarantine"):
        kept = load_table(exchange.catalog, f"market_data.{table}").metadata.snapshots
        assert len(kept) <= 2 + 3 + 1
        assert len(exchange.positions(table)) == runs
    assert_tiled(exchange)


def test_two_drains_that_each_move_another_partition_do_not_both_land(exchange: Exchange) -> None:
    """Each would leave a tracker state that knows nothing of the other's messages."""
    exchange.publish([exchange.tick("A") for _ in range(3)], 0)
    exchange.drain()
    with Connections.open(exchange.settings, exchange.profiles) as connections:
        streams = [StreamDrain(connections, exchange.name, "ticks", "test") for _ in range(2)]
        opened = [stream._open() for stream in streams]
        exchange.publish([exchange.tick("A") for _ in range(3)], 0)
        batches = []
        for moved, (stream, position) in enumerate(zip(streams, opened, strict=True)):
            if moved == 1:
                exchange.publish([exchange.tick("B")], 1)
            raw = stream.read()
            while raw.positions[moved] == position.starts[moved]:
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
            stream.judge(raw, dict(position.starts))
            for stream, raw, position in zip(streams, (batches[0], mine), opened, strict=True)
        ]
        streams[0].commit(streams[0].write(outcomes[0]))
        with pytest.raises(FenceMoved):
            streams[1].commit(streams[1].write(outcomes[1]))
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


def test_an_unknown_schema_waits_and_then_stops_without_moving_the_fence(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "SCHEMA_WAIT_SECONDS", 0.5)
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
