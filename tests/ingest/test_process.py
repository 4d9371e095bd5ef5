"""`k2 ingest` on the real stack: no stream stalls another, none halts for ever, and leases are lost one by one."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from sqlalchemy import update

from k2_dagster.cli.init import initialize
from k2_dagster.devstack.process import wait_until
from k2_dagster.errors import LeaseHeld
from k2_dagster.ingest import driven as driven_module
from k2_dagster.ingest import process as process_module
from k2_dagster.ingest.commit import CommitReport
from k2_dagster.ingest.losses import accept_losses
from k2_dagster.ingest.process import ProcessReport, run
from k2_dagster.kafka.clients import client_config, producer_config
from k2_dagster.kafka.registry import Registry
from k2_dagster.observability import points
from k2_dagster.settings import Settings
from k2_dagster.state import refused_schemas
from k2_dagster.state.leases import read_leases
from k2_dagster.state.refused_schemas import refuse_schema, withdraw_refusal
from k2_dagster.state.stream_states import StreamState, read_states
from k2_dagster.state.tables import leases
from tests.dagster_support import Market, make_market
from tests.ingest.helpers import framed

pytestmark = pytest.mark.stack

SOON_SECONDS = 30.0
UNKNOWN_ID = 999_999


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(driven_module, "HALTED_RETRY_SECONDS", 0.5)
    monkeypatch.setattr(process_module, "HALTED_RETRY_SECONDS", 0.5)
    monkeypatch.setattr(driven_module, "LONGEST_BACKOFF_SECONDS", 0.5)
    yield
    points.arm(None)


@dataclass
class Running:
    """A process in a thread."""

    market: Market
    stop: threading.Event = field(default_factory=threading.Event)
    commits: list[CommitReport] = field(default_factory=list)
    report: ProcessReport | None = None
    raised: BaseException | None = None

    def rows(self, exchange: str, dataset: str) -> int:
        return sum(one.rows for one in self.commits if (one.exchange, one.dataset) == (exchange, dataset))

    def state(self, exchange: str, dataset: str) -> StreamState | None:
        return read_states(self.market.platform.database).get((exchange, dataset))

    def condition(self, exchange: str, dataset: str) -> str:
        found = self.state(exchange, dataset)
        return "none" if found is None else found.condition

    def work(self) -> None:
        try:
            self.report = run(
                self.market.settings,
                self.market.platform.profiles,
                self.market.exchanges,
                self.stop,
                self.commits.append,
            )
        except BaseException as error:  # noqa: BLE001
            self.raised = error


@contextmanager
def running(market: Market, **changes: Any) -> Iterator[Running]:
    market.settings = market.settings.model_copy(update={"ingest_commit_interval_seconds": 0.2, **changes})
    one = Running(market)
    thread = threading.Thread(target=one.work)
    thread.start()
    try:
        yield one
    finally:
        one.stop.set()
        thread.join(SOON_SECONDS)
    assert not thread.is_alive()


def soon(condition: Callable[[], bool]) -> None:
    assert wait_until(condition, SOON_SECONDS)


@pytest.fixture
def markets(settings: Settings, tmp_path: Path) -> Iterator[Callable[[int], Market]]:
    made: list[Market] = []

    def make(exchanges: int) -> Market:
        made.append(make_market(settings, tmp_path, exchanges))
        return made[-1]

    yield make
    for one in made:
        one.platform.close()


@pytest.fixture
def market(markets: Callable[[int], Market]) -> Market:
    return markets(1)


def produce(market: Market, topic: str, value: bytes, times: int = 1) -> None:
    """One after the other, twenty a second."""
    producer = Producer(producer_config(market.settings))
    for _ in range(times):
        producer.produce(topic, value, b"key", 0)
        time.sleep(0.05)
    assert producer.flush(20) == 0


def ticks(market: Market) -> str:
    return f"market.ticks.{market.exchange}"


def holders(market: Market) -> Mapping[str, str]:
    return {name: lease.holder for name, lease in read_leases(market.platform.database).items()}


def test_a_stream_that_waits_for_a_schema_does_not_stall_the_others(market: Market) -> None:
    exchange = market.exchange
    produce(market, ticks(market), framed(UNKNOWN_ID, b"x"))
    with running(market) as one:
        soon(lambda: one.condition(exchange, "ticks") == "waiting")
        market.publish(exchange, 500)
        soon(lambda: one.rows(exchange, "quotes") > 0 and one.rows(exchange, "book") > 0)
        assert one.rows(exchange, "ticks") == 0
        found = one.state(exchange, "ticks")
        assert found is not None
        assert found.error == "SchemaUnknown"
        assert f"{ticks(market)} partition 0 offset 0" in found.message
        assert str(UNKNOWN_ID) in found.message
        since = found.since
        soon(lambda: one.state(exchange, "ticks") != found)
        again = one.state(exchange, "ticks")
        assert again is not None
        assert again.since == since

        refuse_schema(market.platform.database, UNKNOWN_ID, accepted_by="a tester", reason="a test")
        soon(lambda: one.rows(exchange, "ticks") > 0 and one.condition(exchange, "ticks") == "none")
    assert one.report == ProcessReport({})


def test_a_refusal_and_its_withdrawal_reach_a_stream_that_is_running(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused_schemas, "REFRESH_SECONDS", 0.0)
    exchange, database = market.exchange, market.platform.database
    with closing(Registry(market.settings)) as registry:
        schema = registry.latest(f"{ticks(market)}-value")
    assert schema is not None

    def quarantined() -> int:
        return sum(one.quarantined for one in commits.commits if one.dataset == "ticks")

    with running(market) as commits:
        market.publish(exchange, 500)
        soon(lambda: commits.rows(exchange, "ticks") > 0)
        landed = commits.rows(exchange, "ticks")
        refuse_schema(database, schema.id, accepted_by="a tester", reason="a test")
        market.publish(exchange, 500, seed=8)
        soon(lambda: quarantined() > 0)
        assert commits.rows(exchange, "ticks") == landed
        withdraw_refusal(database, schema.id, withdrawn_by="a tester", reason="a test")
        market.publish(exchange, 500, seed=9)
        soon(lambda: commits.rows(exchange, "ticks") > landed)


def test_a_halted_stream_goes_on_when_the_loss_is_accepted_and_its_neighbours_never_stopped(market: Market) -> None:
    exchange = market.exchange
    market.publish(exchange, 500)
    market.drain(exchange)
    market.publish(exchange, 500, seed=8)
    admin = AdminClient(client_config(market.settings))
    for deletion in admin.delete_records([TopicPartition(ticks(market), at, -1) for at in range(2)]).values():
        deletion.result(20)
    with running(market) as one:
        soon(lambda: one.condition(exchange, "ticks") == "halted" and one.rows(exchange, "quotes") > 0)
        found = one.state(exchange, "ticks")
        assert found is not None
        assert "no longer in Kafka" in found.message
        assert "accept-loss" in found.advice
        assert exchange in holders(market)

        accept_losses(market.settings, exchange, "ticks", accepted_by="a tester", reason="a test")
        market.publish(exchange, 500, seed=9)
        soon(lambda: one.rows(exchange, "ticks") > 0 and one.condition(exchange, "ticks") == "none")


def test_the_lease_of_an_exchange_with_nothing_but_halted_streams_is_given_back_until_it_can_go_on(
    market: Market,
) -> None:
    exchange = market.exchange
    for dataset in ("ticks", "quotes", "book", "control", "instruments"):
        market.delete_topic(f"market.{dataset}.{exchange}")
    with running(market) as one:
        soon(lambda: exchange not in holders(market) and one.condition(exchange, "control") == "halted")
        initialize(market.settings, market.platform.profiles, (exchange,))
        market.publish(exchange, 500)
        soon(lambda: one.rows(exchange, "ticks") > 0)
        soon(lambda: one.condition(exchange, "control") == "none")
        assert exchange in holders(market)


def test_a_lost_lease_drops_its_exchange_and_the_last_one_ends_the_process(
    markets: Callable[[int], Market],
) -> None:
    market = markets(2)
    first, second = market.exchanges
    with running(market, lease_stale_seconds=1.0) as one:
        soon(lambda: set(holders(market)) == {first, second})
        take_over(market, first)
        market.publish(second, 500)
        soon(lambda: one.rows(second, "ticks") > 0)
        time.sleep(1.0)  # the heart beats every sixth of a second, and tells the loop
        market.publish(first, 500)
        market.publish(second, 500, seed=8)
        before = one.rows(second, "ticks")
        soon(lambda: one.rows(second, "ticks") > before)
        assert one.rows(first, "ticks") == 0
        take_over(market, second)
        soon(lambda: one.raised is not None)
    assert isinstance(one.raised, LeaseHeld)
    assert set(holders(market).values()) == {"another process"}


def take_over(market: Market, exchange: str) -> None:
    with market.platform.database.begin() as connection:
        connection.execute(update(leases).where(leases.c.exchange == exchange).values(holder="another process"))


def test_an_unexpected_error_halts_its_stream_alone_and_for_a_minute_only(market: Market) -> None:
    exchange = market.exchange
    raised: list[str] = []

    def break_once(point: str) -> None:
        if point == "state.written" and not raised:
            raised.append(point)
            raise RuntimeError("nobody thought of this")

    points.arm(break_once)
    market.publish(exchange, 500)
    with running(market) as one:
        soon(lambda: all(one.rows(exchange, name) > 0 for name in ("ticks", "quotes", "book")))
        soon(lambda: read_states(market.platform.database) == {})
    assert raised


def test_small_batches_wait_for_the_interval_and_full_ones_do_not(market: Market) -> None:
    exchange, interval, trickled = market.exchange, 1.0, 60
    with running(market, ingest_commit_interval_seconds=interval) as one:
        soon(lambda: set(holders(market)) == {exchange})
        time.sleep(2.0)  # positions are found
        began = time.monotonic()
        produce(market, ticks(market), b"junk", trickled)
        soon(lambda: sum(report.quarantined for report in one.commits) == trickled)
        assert len(one.commits) <= (time.monotonic() - began) / interval + 1
    with running(market, ingest_commit_interval_seconds=600.0, ingest_batch_rows=200) as one:
        market.publish(exchange, 2_000, seed=99)
        soon(lambda: sum(report.rows for report in one.commits) >= 400)


def test_a_stop_does_not_wait_for_a_batch_and_nothing_of_it_is_lost(market: Market) -> None:
    exchange = market.exchange
    with running(market, ingest_commit_interval_seconds=600.0) as one:
        soon(lambda: set(holders(market)) == {exchange})
        time.sleep(2.0)
        published = market.publish(exchange, 100)
        time.sleep(1.0)
        began = time.monotonic()
        one.stop.set()
        soon(lambda: one.report is not None)
        assert time.monotonic() - began < 5.0
        assert one.commits == []
    report = market.drain(exchange)
    assert report.rows + report.quarantined == published
