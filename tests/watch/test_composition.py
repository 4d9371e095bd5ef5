"""Everything together: a real gap, found by Dagster's check, is told with its links; and Kafka goes away."""

import threading

import dagster as dg
import pytest
from pydantic import SecretStr
from sqlalchemy import text, update

from k2_dagster.alerts.rounds import Round
from k2_dagster.settings import Settings
from k2_dagster.state.tables import gaps
from k2_dagster.watch import streams
from k2_dagster.watch.composition import opened_watch
from tests.alerts.support import expanded, receiving
from tests.dagster_fixtures import instance, market
from tests.dagster_support import Market, run_check_job

__all__ = ["instance", "market"]

pytestmark = pytest.mark.stack


def look(market: Market, settings: Settings) -> Round:
    with opened_watch(settings, market.platform.profiles, threading.Event(), settled=True) as watch:
        done = watch.round()
    assert done is not None
    return done


def test_a_gap_is_told_with_its_links_and_its_end_too(market: Market, instance: dg.DagsterInstance) -> None:
    partition = ("ticks", market.exchange, market.today)
    key = f"check/ticks/sequence_gaps/{market.exchange}|{market.today}"
    with receiving() as receiver:
        settings = market.settings.model_copy(
            update={"alert_urls": SecretStr(receiver.url), "dagster_url": "http://dagster.example"}
        )
        market.publish(market.exchange, 1_500, faults=("drop:12@1s/ticks",))
        market.drain(market.exchange)
        run_check_job(market, instance, [partition])
        look(market, settings)
        assert set(receiver.identities) == {f"{key}#1", "daemon/all#1"}  # no daemon has ever run here
        (told,) = [one["message"] for one in receiver.got if key in one["message"]]
        assert "12 messages missing" in told
        assert (
            f"http://dagster.example/assets/ticks?view=partitions&partition={market.today}%7C{market.exchange}" in told
        )
        assert "/runbooks/sequence_gaps.md" in told
        look(market, settings)
        assert len(receiver.got) == 2
        with market.platform.database.begin() as connection:
            connection.execute(update(gaps).values(state="filled"))
        run_check_job(market, instance, [partition])
        look(market, settings)
        with market.platform.database.begin() as connection:  # the hold passes
            connection.execute(text("update k2.incidents set absent_since = absent_since - interval '10 minutes'"))
        look(market, settings)
        assert receiver.identities[-1] == f"{key}#2"
        assert receiver.titles[-1].startswith("Resolved: ")


def test_messages_that_wait_are_told_and_not_forgotten_while_kafka_is_away(
    market: Market, instance: dg.DagsterInstance
) -> None:
    market.publish(market.exchange, 300)
    lag = f"lag/{market.exchange}/ticks"
    with receiving() as receiver:
        hasty = market.settings.model_copy(
            update={"alert_urls": SecretStr(f"error={receiver.url}"), "freshness_target_seconds": 0.01}
        )
        look(market, hasty)
        assert f"{lag}#1" in expanded(market.platform.database, receiver.identities)
        away = hasty.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
        found = streams.stream_source(away, market.platform.profiles).read()
        assert (found.signals, found.tells(lag)) == ({}, False)
        assert "Kafka" in found.failure
        market.drain(market.exchange)
        assert lag not in streams.stream_source(hasty, market.platform.profiles).read().signals
