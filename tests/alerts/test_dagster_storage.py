"""Dagster's real storage, read by SQL: its checks, runs, daemon and code server."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, text, update

from k2_dagster.alerts import dagster_signals, dagster_storage
from k2_dagster.alerts.dagster_signals import (
    ALL_DAEMONS,
    CODE_SERVER,
    SUPERSEDED_CHECKS,
    check_reading,
    daemon_reading,
    run_reading,
)
from k2_dagster.alerts.dagster_storage import DagsterStorage, key_of
from k2_dagster.alerts.signals import Reading
from k2_dagster.assets import check_findings, standing
from k2_dagster.assets.partitions import partition_key
from k2_dagster.devstack.dagster import DagsterParts
from k2_dagster.devstack.part import Part
from k2_dagster.devstack.process import wait_until
from k2_dagster.errors import DatabaseUnavailable, NotInitialized
from k2_dagster.resources.tags import STREAM_TAG
from k2_dagster.settings import Settings
from k2_dagster.state.tables import gaps
from k2_dagster.watch import streams
from tests.dagster_fixtures import instance, market
from tests.dagster_support import Market, make_market, run_check_job

__all__ = ["instance", "market"]

# A daemon loads the code and ticks; on a busy machine that takes half a minute.
TICK_SECONDS = 120.0
LONG_AGO = "10 minutes"


def opened(settings: Settings) -> DagsterStorage:
    assert settings.dagster_uri is not None
    return DagsterStorage(settings.dagster_uri.get_secret_value())


@pytest.fixture
def storage(settings: Settings) -> Iterator[DagsterStorage]:
    with closing(opened(settings)) as made:
        yield made


def test_names_that_are_written_twice_agree() -> None:
    assert dagster_storage.STREAM_TAG == STREAM_TAG
    assert dagster_storage.STANDING_KEY == standing._KEY
    assert set(check_findings.CHECKS) >= SUPERSEDED_CHECKS
    assert (streams.LATE_TARGETS, streams.STALE_TARGETS) == (check_findings.LATE_TARGETS, check_findings.STALE_TARGETS)
    assert {check_findings.WARN, check_findings.ERROR} == {"WARN", "ERROR"}


def test_keys_of_partitions_begin_with_the_exchange() -> None:
    assert key_of(str(partition_key("binance", "2026-11-26"))) == "binance|2026-11-26"
    assert (key_of(None), key_of("2026-11-26")) == ("", "2026-11-26")


@pytest.mark.stack
def test_a_storage_that_is_not_laid_out_or_not_there(settings: Settings, storage: DagsterStorage) -> None:
    with pytest.raises(NotInitialized, match="Dagster has not laid out"):
        storage.heartbeats()
    away = settings.model_copy(update={"dagster_uri": SecretStr("postgresql+psycopg2://x@127.0.0.1:1/x")})
    with closing(opened(away)) as gone, pytest.raises(DatabaseUnavailable, match="Dagster's storage"):
        gone.failed_checks()


@pytest.mark.stack
def test_a_failed_check_stands_until_its_partition_passes(
    market: Market, instance: dg.DagsterInstance, storage: DagsterStorage
) -> None:
    partition = ("ticks", market.exchange, market.today)
    market.publish(market.exchange, 1_500)
    market.drain(market.exchange)
    run_check_job(market, instance, [partition])
    assert storage.failed_checks() == []
    market.publish(market.exchange, 1_500, faults=("drop:12@1s/ticks",), seed=8)
    market.drain(market.exchange)
    failing = run_check_job(market, instance, [partition])
    (found,) = storage.failed_checks()
    assert (found.table, found.check, found.run_id) == ("ticks", "sequence_gaps", failing.run_id)
    assert found.partition == f"{market.exchange}|{market.today}"
    assert found.severity in ("WARN", "ERROR")
    assert found.metadata["messages_missing"] == 12
    assert "12 messages missing" in found.description
    assert list(check_reading([found]).signals) == [f"check/ticks/sequence_gaps/{found.partition}"]
    with market.platform.database.begin() as connection:
        connection.execute(update(gaps).values(state="filled"))
    run_check_job(market, instance, [partition])
    assert storage.failed_checks() == []


def job(name: str, work: Callable[[], None]) -> dg.JobDefinition:
    @dg.op
    def act() -> None:
        work()

    @dg.job(name=name)
    def made() -> None:
        act()

    return made


def fail() -> None:
    raise dg.Failure(description="no broker answered")


def crash() -> None:
    raise ValueError("a mistake")


@pytest.mark.stack
def test_a_failed_run_stands_until_one_of_its_exchange_goes_well(
    instance: dg.DagsterInstance, storage: DagsterStorage
) -> None:
    def run(name: str, work: Callable[[], None], exchange: str = "") -> str:
        tags = {STREAM_TAG: exchange} if exchange else {}
        return job(name, work).execute_in_process(instance=instance, tags=tags, raise_on_error=False).run_id

    def read() -> Reading:
        return run_reading(storage.failed_runs())

    run("drain", fail, "binance")
    newest = run("drain", fail, "binance")
    run("drain", fail, "kraken")
    run("prune", crash)
    found = read().signals
    assert set(found) == {"run/drain/binance", "run/drain/kraken", "run/prune"}
    assert (found["run/drain/binance"].run_id, found["run/drain/binance"].text) == (newest, "no broker answered")
    assert "ValueError: a mistake" in found["run/prune"].text
    run("drain", lambda: None, "binance")
    assert set(read().signals) == {"run/drain/kraken", "run/prune"}
    instance.create_run_for_job(job("drain", fail), tags={STREAM_TAG: "kraken"}, status=dg.DagsterRunStatus.NOT_STARTED)
    waiting = read()
    assert set(waiting.signals) == {"run/prune"}
    assert not waiting.tells("run/drain/kraken")


@pytest.fixture
def running(settings: Settings, tmp_path: Path) -> Iterator[DagsterParts]:
    made = make_market(settings, tmp_path)
    parts = DagsterParts(settings.home, made.settings)
    try:
        parts.up()
        yield parts
    finally:
        parts.down(purge=True)
        made.platform.close()


def kill(part: Part) -> None:
    found = part.find()
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)
    assert wait_until(lambda: part.find() is None, 20)


def let_time_pass(settings: Settings) -> None:
    """Everything that Dagster's processes have written of themselves is ten minutes older."""
    assert settings.dagster_uri is not None
    engine = create_engine(settings.dagster_uri.get_secret_value())
    with engine.begin() as connection:
        for table in ("daemon_heartbeats", "job_ticks"):
            connection.execute(text(f"update {table} set timestamp = timestamp - interval '{LONG_AGO}'"))
        connection.execute(
            text("""update instigators set instigator_body = regexp_replace(instigator_body,
                    '("last_(sensor|tick)_start_timestamp": )\\d+', '\\11000000000', 'g')""")
        )
    engine.dispose()


@pytest.mark.stack
def test_a_killed_code_server_and_a_killed_daemon_are_told_apart(
    running: DagsterParts, settings: Settings, storage: DagsterStorage
) -> None:
    def ticked() -> bool:
        found = storage.sensors()
        return len(found) == 2 and all(one.good_age_seconds < 30 and one.tick_age_seconds is not None for one in found)

    def read() -> Reading:
        return daemon_reading(storage.heartbeats(), storage.sensors(), dagster_signals.SETTLE_SECONDS)

    assert wait_until(ticked, TICK_SECONDS)
    assert read().signals == {}
    assert {one.name for one in storage.sensors()} == {"lag", "commits"}
    before = storage.heartbeats()
    kill(running.code_server)
    # without it no tick goes well any more; heartbeats go on, every 30 s
    let_time_pass(settings)
    assert {one.daemon for one in before} == {one.daemon for one in storage.heartbeats()}
    fresh = [replace(one, age_seconds=one.age_seconds - 600) for one in storage.heartbeats()]
    assert list(daemon_reading(fresh, storage.sensors(), 600).signals) == [CODE_SERVER]
    kill(running.daemon)
    let_time_pass(settings)
    assert list(read().signals) == [ALL_DAEMONS]
    running.up()
    assert wait_until(ticked, TICK_SECONDS)
    assert read().signals == {}
