"""`k2 status` when it is needed: it names what keeps a stream from going on, before and after anybody tried."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from sqlalchemy import create_engine, text

from k2_dagster.alerts.dagster_signals import DAEMON_STALE_SECONDS
from k2_dagster.cli import main
from k2_dagster.devstack.process import wait_until
from k2_dagster.errors import SchemaUnknown
from k2_dagster.ingest import drain as drain_module
from k2_dagster.ingest import status as status_module
from k2_dagster.ingest.status import StreamStatus, in_trouble, is_in_use, stream_statuses
from k2_dagster.ingest.unleased import silent_seconds
from k2_dagster.kafka.clients import client_config, producer_config
from k2_dagster.kafka.topics import describe, watermarks
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.settings import as_environment
from tests.ingest.conftest import Exchange
from tests.ingest.helpers import framed
from tests.ingest.test_losses import accept, delete_records, pretend_more_landed

pytestmark = pytest.mark.stack


def of(exchange: Exchange, dataset: str = "ticks", **changes: object) -> StreamStatus:
    settings = exchange.settings.model_copy(update=changes)
    found = stream_statuses(settings, exchange.profiles, [exchange.name])
    assert [one.dataset for one in found] == ["ticks", "control", "instruments"]
    return next(one for one in found if one.dataset == dataset)


def told(exchange: Exchange, profiles: Profiles) -> list[StreamStatus]:
    return stream_statuses(exchange.settings, profiles, [exchange.name])


def test_a_stream_that_is_well_says_where_it_is(exchange: Exchange) -> None:
    exchange.publish([exchange.tick() for _ in range(3)], 0)
    exchange.publish([exchange.tick("B"), b"junk"], 1)
    before = of(exchange)
    assert (before.fence, before.lag_messages, before.rows, before.last_commit) == (0, 5, 0, None)
    assert before.lag_seconds is not None
    assert 0 <= before.lag_seconds < 120
    exchange.drain()
    exchange.publish([exchange.tick()], 0)
    after = of(exchange)
    assert (after.state, after.problem, after.since, after.driver) == ("ok", "", None, "none")
    assert (after.fence, after.lag_messages, after.held_messages, after.rows, after.quarantined) == (5, 1, 0, 4, 1)
    assert (dict(after.fences), dict(after.ends)) == ({0: 3, 1: 2}, {0: 4, 1: 2})
    assert after.last_commit is not None
    assert (datetime.now(UTC) - after.last_commit).total_seconds() < 120
    assert after.breaker == "none (mark_stale)"
    assert of(exchange, "control").lag_seconds == 0.0


def test_streams_that_nobody_lands_say_so(exchange: Exchange) -> None:
    exchange.publish([exchange.tick()])
    assert (of(exchange, dagster_uri=None).driver, of(exchange, dagster_uri=None).problem) == ("unknown", "")
    assert of(exchange).problem == ""
    late = of(exchange, freshness_target_seconds=0.0)
    assert (late.driver, late.problem) == ("none", "nobody lands this: start `k2 ingest`, or Dagster's daemon")


def test_the_daemon_is_known_by_its_heartbeats(exchange: Exchange) -> None:
    assert exchange.settings.dagster_uri is not None
    storage = create_engine(exchange.settings.dagster_uri.get_secret_value())
    heartbeat = "insert into daemon_heartbeats values (:kind, to_timestamp(:at) at time zone 'UTC')"
    with storage.begin() as connection:
        connection.execute(text("create table daemon_heartbeats (daemon_type text, timestamp timestamp)"))
        connection.execute(text(heartbeat), {"kind": "BACKFILL", "at": time.time()})
    assert silent_seconds(exchange.settings) == float("inf")
    with storage.begin() as connection:
        connection.execute(text(heartbeat), {"kind": "SENSOR", "at": time.time() - DAEMON_STALE_SECONDS})
    assert of(exchange).driver == "none"
    with storage.begin() as connection:
        connection.execute(text(heartbeat), {"kind": "SENSOR", "at": time.time()})
    assert of(exchange).driver == "dagster"
    storage.dispose()


def test_lost_messages_are_named_before_anybody_tries_to_read_them(exchange: Exchange) -> None:
    exchange.publish([exchange.tick() for _ in range(3)])
    exchange.drain()
    exchange.publish([exchange.tick() for _ in range(4)])
    delete_records(exchange, 0, 5)
    found = of(exchange)
    assert (found.state, found.problem) == (
        "halted",
        f"{exchange.topic} partition 0: offsets 3 to 4 are no longer in Kafka",
    )
    assert found.fence == 3
    accept(exchange)
    assert of(exchange).problem == ""


def test_a_topic_made_anew_is_named(exchange: Exchange) -> None:
    exchange.publish([exchange.tick() for _ in range(3)])
    exchange.drain()
    exchange.remake_topic()
    found = of(exchange)
    assert found.state == "halted"
    assert "the topic was made anew; the old one was read up to 3" in found.problem
    accept(exchange)
    assert (of(exchange).problem, of(exchange).state) == ("", "ok")


def test_a_log_that_shrank_is_named(exchange: Exchange) -> None:
    exchange.publish([exchange.tick() for _ in range(3)])
    exchange.drain()
    pretend_more_landed(exchange, 10)
    assert of(exchange).problem == f"{exchange.topic} partition 0 ends at 3, and was read up to 10"
    accept(exchange)
    assert of(exchange).problem == ""


def test_a_topic_that_is_gone_and_one_that_never_was(exchange: Exchange) -> None:
    exchange.publish([exchange.tick() for _ in range(3)])
    exchange.drain()
    topics = [exchange.topic, f"market.control.{exchange.name}"]
    admin = AdminClient(client_config(exchange.settings))
    for deletion in admin.delete_topics(topics).values():
        deletion.result(20)
    assert wait_until(lambda: describe(exchange.settings, topics) == {}, 20)
    gone, never = of(exchange), of(exchange, "control")
    assert "does not exist any more" in gone.problem
    assert (gone.state, never.state) == ("halted", "not initialized")
    assert (is_in_use(gone), is_in_use(never)) == (True, False)
    assert (gone.fence, gone.lag_messages, gone.rows) == (None, None, 3)


def test_another_partition_count_than_the_profile_declares_is_named(exchange: Exchange) -> None:
    profile = exchange.profiles.exchange(exchange.name).model_copy(update={"partitions": 3})
    profiles = exchange.profiles.model_copy(update={"exchanges": {exchange.name: profile}})
    # nothing was published, so this may be the first that is asked of a topic whose leader is not known everywhere yet
    assert wait_until(lambda: all(one.state != "unknown" for one in told(exchange, profiles)), 30)
    ticks, control, _ = told(exchange, profiles)
    assert (ticks.state, control.state) == ("halted", "ok")
    assert f"{exchange.topic} has 2, its profile declares 3" in ticks.problem


def test_what_a_driver_met_stays_until_the_stream_goes_on(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "SCHEMA_WAIT_SECONDS", 0.2)
    exchange.publish([framed(999_999, b"x")])
    began = datetime.now(UTC)
    with pytest.raises(SchemaUnknown):
        exchange.drain(run_id="r1")
    found = of(exchange)
    assert found.state == "waiting"
    assert f"{exchange.topic} partition 0 offset 0" in found.problem
    assert found.since is not None
    assert abs((found.since - began).total_seconds()) < 60
    delete_records(exchange, 0, 1)
    accept(exchange)
    exchange.publish([exchange.tick()])
    exchange.drain()
    assert (of(exchange).state, of(exchange).problem, of(exchange).since) == ("ok", "", None)


@contextmanager
def transaction(exchange: Exchange, messages: int) -> Iterator[None]:
    """Messages whose transaction does not end within the block."""
    producer = Producer({**producer_config(exchange.settings), "transactional.id": f"hung-{exchange.name}"})
    producer.init_transactions(20)
    producer.begin_transaction()
    for _ in range(messages):
        producer.produce(exchange.topic, exchange.tick(), b"key", 0)
    assert producer.flush(20) == 0
    yield
    producer.abort_transaction(20)


def test_a_transaction_that_does_not_end_is_lag_and_in_time_a_problem(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange.publish([exchange.tick() for _ in range(3)])
    exchange.drain()
    with transaction(exchange, 2):
        exchange.publish([exchange.tick()])
        assert watermarks(exchange.settings, exchange.topic, 2)[0][1] == 3
        found = of(exchange)
        assert (found.lag_messages, found.held_messages, found.problem) == (3, 3, "")
        assert found.lag_seconds is not None
        monkeypatch.setattr(status_module, "HUNG_TRANSACTION_SECONDS", 0.0)
        assert "a transaction that does not end holds back 3 messages" in of(exchange).problem
    exchange.drain()
    assert (of(exchange).lag_messages, of(exchange).held_messages) == (0, 0)


def test_brokers_that_are_away_are_the_problem_of_every_stream(exchange: Exchange) -> None:
    found = of(exchange, kafka_bootstrap_servers="127.0.0.1:1")
    assert found.state == "unknown"
    assert "Kafka could not" in found.problem
    assert (found.lag_messages, found.lag_seconds, found.held_messages) == (None, None, None)


def test_a_breaker_that_a_profile_asks_for_is_shown(exchange: Exchange) -> None:
    profile = exchange.profiles.exchange(exchange.name).model_copy(update={"on_critical_gap": "halt"})
    profiles = exchange.profiles.model_copy(update={"exchanges": {exchange.name: profile}})
    found = stream_statuses(exchange.settings, profiles, [exchange.name])
    assert {one.dataset: one.breaker for one in found} == {
        "ticks": "closed", "control": "none", "instruments": "closed",
    }  # fmt: skip
    assert not in_trouble(found)


def test_the_command_gives_fences_by_partition_and_a_status_of_1_with_a_problem(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in as_environment(exchange.settings).items():
        monkeypatch.setenv(name, value)
    exchange.publish([exchange.tick() for _ in range(3)])
    exchange.drain()

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["status", *arguments])
        return done.exit_code, done.stdout

    status, output = run("--json")
    assert status == 0
    (ticks,) = json.loads(output)
    assert (ticks["fences"], ticks["ends"]) == ({"0": 3, "1": 0}, {"0": 3, "1": 0})
    exchange.publish([exchange.tick() for _ in range(4)])
    delete_records(exchange, 0, 5)
    status, output = run()
    assert status == 1
    assert "no longer in Kafka" in output
    assert "fences" not in output
