"""Rounds: one leads, the dead man's switch, and a control database that goes away."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url, text

from k2_dagster.alerts import rounds as rounds_module
from k2_dagster.alerts.away import Away
from k2_dagster.alerts.breakers import OpenBreaker, breaker_source
from k2_dagster.alerts.delivery import Deliverer
from k2_dagster.alerts.heartbeat import Heartbeat
from k2_dagster.alerts.leases import lease_source
from k2_dagster.alerts.listing import list_incidents
from k2_dagster.alerts.outbox import Outbox
from k2_dagster.alerts.rounds import LEADER_LOCK, Watch
from k2_dagster.alerts.signals import Reading
from k2_dagster.alerts.sources import Source, Sources
from k2_dagster.alerts.targets import parse_targets
from k2_dagster.devstack.process import wait_until
from k2_dagster.errors import DatabaseUnavailable, NotInitialized
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.leases import acquire_lease, release_leases
from k2_dagster.state.locks import try_lock
from tests.alerts.support import LINKS, Receiver

pytestmark = pytest.mark.stack

PROMPT_SECONDS = 20.0


def make(
    database: Database,
    receiver: Receiver,
    *sources: Source,
    beat_seconds: float = 0.0,
    hold_seconds: float = 0.0,
    stop: threading.Event | None = None,
) -> Watch:
    targets = parse_targets(receiver.url)
    watched = sources or (lease_source(database, stale_seconds=0.0),)
    return Watch(
        database,
        Sources(watched),
        Outbox(database, LINKS, hold_seconds),
        Deliverer(database, stop or threading.Event()),
        targets,
        Heartbeat(receiver.url.replace("json", "http") + "beat", beat_seconds),
        Away(targets, LINKS, grace_seconds=0.2),
    )


def test_a_stale_lease_is_told_and_its_end_too(database: Database, receiver: Receiver) -> None:
    watch = make(database, receiver)
    acquire_lease(database, "binance", "host:1", 60)
    watch.round()
    assert receiver.identities == ["lease/binance#1"]
    assert "host:1" in receiver.got[0]["message"]
    watch.round()
    release_leases(database, ["binance"], "host:1")
    watch.round()
    watch.round()
    assert receiver.identities == ["lease/binance#1", "lease/binance#2"]
    assert receiver.titles[1].startswith("Resolved: [warning]")


def test_breakers_are_told_through_their_port(database: Database, receiver: Receiver) -> None:
    found = [OpenBreaker("market.ticks.x", 3, "a gap of 500")]
    watch = make(database, receiver, breaker_source(lambda: found))
    watch.round()
    found[:] = [OpenBreaker("market.ticks.x", 3, "a gap of 500", retention_nears=True)]
    watch.round()
    assert receiver.identities == ["breaker/market.ticks.x/3#1", "breaker/market.ticks.x/3#2"]
    assert receiver.titles[1].startswith("Worse: [critical]")


def test_one_leads_and_the_other_stands_by(database: Database, settings: Settings, receiver: Receiver) -> None:
    acquire_lease(database, "binance", "host:1", 60)
    with closing(Database(settings)) as other:
        with other.begin() as connection:
            assert try_lock(connection, LEADER_LOCK)
            assert make(database, receiver).round() is None
        assert (receiver.got, receiver.beats) == ([], 0)
        assert make(database, receiver).round() is not None
        assert make(other, receiver).round() is not None
    assert len(receiver.got) == 1


def test_a_leader_that_hangs_loses_its_place(
    database: Database, settings: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_module, "LEADER_SILENT_SECONDS", 1)
    hanging, let_go = threading.Event(), threading.Event()
    raised: list[DatabaseUnavailable] = []

    def hang() -> Reading:
        hanging.set()
        assert let_go.wait(PROMPT_SECONDS)
        return Reading("slow", ("slow/",))

    def lead() -> None:
        try:
            make(database, receiver, Source("slow", ("slow/",), hang)).round()
        except DatabaseUnavailable as error:
            raised.append(error)

    leader = threading.Thread(target=lead)
    leader.start()
    assert hanging.wait(PROMPT_SECONDS)
    with closing(Database(settings)) as other:
        standby = make(other, receiver)
        assert standby.round() is None
        assert wait_until(lambda: standby.round() is not None, PROMPT_SECONDS)
    let_go.set()
    leader.join(PROMPT_SECONDS)
    assert len(raised) == 1, "its round ends as failed"


def test_the_heartbeat_follows_a_round_that_went_well_at_its_interval(database: Database, receiver: Receiver) -> None:
    watch = make(database, receiver, beat_seconds=3_600)
    watch.round()
    watch.round()
    assert receiver.beats == 1


def test_no_heartbeat_while_nobody_takes_what_there_is_to_tell(database: Database, receiver: Receiver) -> None:
    acquire_lease(database, "binance", "host:1", 60)
    watch = make(database, receiver)
    receiver.refuses = True
    watch.round()
    assert (receiver.got, receiver.beats) == ([], 0)
    receiver.refuses = False
    watch.round()  # nothing is due yet, so nobody is silent
    assert receiver.beats == 1


def test_a_dead_mans_switch_that_is_down_stops_nothing(
    database: Database, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    watch = make(database, receiver)
    receiver.status = 500
    with caplog.at_level(logging.WARNING):
        watch.round()
        watch.round()
    assert [one.message for one in caplog.records].count("heartbeat not delivered") == 1
    receiver.status = 200
    watch.round()
    assert receiver.beats == 1


@contextmanager
def running(watch: Watch, stop: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=watch.run, args=(stop, 0.05))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PROMPT_SECONDS)
        assert not thread.is_alive()


def test_a_control_database_that_is_away_is_told_directly_and_ends_like_any_incident(
    database: Database, settings: Settings, receiver: Receiver
) -> None:
    stop = threading.Event()
    with running(make(database, receiver, stop=stop), stop):
        assert wait_until(lambda: receiver.beats > 0, PROMPT_SECONDS)
        with away(settings):
            assert wait_until(lambda: bool(receiver.got), PROMPT_SECONDS)
            beats = receiver.beats
            time.sleep(0.5)
            assert receiver.beats == beats
        assert wait_until(lambda: len(receiver.got) == 2, PROMPT_SECONDS)
    assert receiver.identities == ["source/control-database#1", "source/control-database#2"]
    assert receiver.titles[1].startswith("Resolved: [critical]")
    (listed,) = list_incidents(database, everything=True, limit=10)
    assert (listed["key"], listed["waiting"]) == ("source/control-database", 0)


@contextmanager
def away(settings: Settings) -> Iterator[None]:
    """The database takes no connections, and those that it had are gone."""
    own = make_url(settings.catalog_uri.get_secret_value())
    name = own.database
    uri = own.set(database="postgres").render_as_string(hide_password=False)
    with closing(Database(settings.model_copy(update={"catalog_uri": SecretStr(uri)}))) as other:

        def allow(yes: bool) -> None:
            with other.begin() as connection:
                connection.execute(text(f"alter database {name} allow_connections {str(yes).lower()}"))
                ended = text("select pg_terminate_backend(pid) from pg_stat_activity where datname = :name")
                connection.execute(ended, {"name": name})

        allow(False)
        try:
            yield
        finally:
            allow(True)


def test_the_first_round_says_what_must_be_changed_first(settings: Settings, receiver: Receiver) -> None:
    with closing(Database(settings)) as bare, pytest.raises(NotInitialized):
        make(bare, receiver).run(threading.Event(), 0.05)


def test_a_server_that_is_not_up_yet_is_waited_for(settings: Settings, receiver: Receiver) -> None:
    nobody = settings.model_copy(update={"catalog_uri": SecretStr("postgresql+psycopg2://x@127.0.0.1:1/x")})
    stop = threading.Event()
    with closing(Database(nobody)) as gone:
        with pytest.raises(DatabaseUnavailable):
            make(gone, receiver).round()
        with running(make(gone, receiver, stop=stop), stop):
            assert wait_until(lambda: bool(receiver.got), PROMPT_SECONDS)
    assert receiver.identities[0].startswith("source/control-database#")
