"""`k2 watch` and `k2 incidents` as commands: killed in the middle of deliveries, stopped while a service hangs."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pydantic import SecretStr
from sqlalchemy import func, insert, select, text

from k2_dagster.cli import main
from k2_dagster.devstack.process import wait_until
from k2_dagster.settings import Settings, as_environment
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import upgrade
from k2_dagster.state.tables import incident_deliveries as deliveries
from k2_dagster.state.tables import incident_transitions as transitions
from k2_dagster.state.tables import leases
from tests.alerts.support import Receiver, expanded, receiving

pytestmark = pytest.mark.stack

KILLS = 15
LEASES_PER_KILL = 4
# A process imports for two seconds, several times that on a busy machine.
START_SECONDS = 60.0
STOP_SECONDS = 5.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    made = Database(settings)
    upgrade(made)
    yield made
    made.close()


@pytest.fixture
def watched(settings: Settings, receiver: Receiver) -> Settings:
    """Settings that tell the receiver; without Dagster, whose storage is empty here."""
    own = {
        "alert_urls": SecretStr(receiver.url),
        "alert_heartbeat_url": SecretStr(receiver.url.replace("json", "http")),
        "alert_interval_seconds": 0.1,
        "dagster_uri": None,
    }
    return settings.model_copy(update=own)


def go_stale(database: Database, *exchanges: str) -> None:
    """Processes that held these exchanges are gone for long."""
    ago = func.now() - timedelta(hours=3)
    rows = [{"exchange": name, "holder": "host:1", "acquired_at": ago, "heartbeat_at": ago} for name in exchanges]
    with database.begin() as connection:
        for row in rows:
            connection.execute(insert(leases).values(**row))


def undelivered(database: Database) -> int:
    with database.begin() as connection:
        query = select(func.count()).select_from(deliveries).where(deliveries.c.delivered_at.is_(None))
        return int(connection.execute(query).scalar_one())


Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def start(watched: Settings, tmp_path: Path) -> Iterator[Start]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("K2_")}
    running: list[subprocess.Popen[bytes]] = []

    def run() -> subprocess.Popen[bytes]:
        with (tmp_path / "watch.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "k2_dagster.cli", "watch"],
                env=plain | as_environment(watched),
                stdout=log,
                stderr=log,
            )
        running.append(process)
        return process

    yield run
    for one in running:
        one.kill()
        one.wait(10)


def test_killed_in_the_middle_of_deliveries_nothing_is_lost_and_twice_is_the_same(
    database: Database, receiver: Receiver, start: Start
) -> None:
    chance = random.Random(11)
    cut_while_answering = 0
    names: list[str] = []
    for number in range(KILLS):
        fresh = [f"x{number}_{one}" for one in range(LEASES_PER_KILL)]
        names += fresh
        go_stale(database, *fresh)
        process = start()
        way = ("answering", "written", "any")[number % 3]
        if way == "answering":
            _kill_at(receiver, process)
            process.wait(START_SECONDS)
            cut_while_answering += 1
        elif way == "written":
            before = undelivered(database)
            while undelivered(database) == before:  # as soon as it can be seen, without a pause
                assert process.poll() is None
            process.kill()
        else:
            time.sleep(chance.uniform(0.5, 4.0))
            process.kill()
        process.wait(10)
        receiver.meet = lambda _: None
        with database.begin() as connection:  # the window passes, in which what is alike waits for a group
            passed = "update k2.incident_deliveries set delivered_at = delivered_at - interval '1 minute'"
            connection.execute(text(passed))
    start()
    wanted = {f"lease/{name}#1" for name in names}
    assert wait_until(lambda: wanted <= set(expanded(database, receiver.identities)), START_SECONDS)
    assert wait_until(lambda: undelivered(database) == 0, START_SECONDS)
    _assert_twice_is_the_same(receiver, most=KILLS, least=cut_while_answering)
    with database.begin() as connection:
        written = set(connection.execute(select(transitions.c.key)).scalars())
    assert {one.split("#")[0] for one in expanded(database, receiver.identities)} == written


def _kill_at(receiver: Receiver, process: subprocess.Popen[bytes]) -> None:
    """Kill the process when it has sent a message and has no answer yet."""

    def meet(_: dict[str, Any]) -> None:
        process.kill()
        process.wait(10)

    receiver.meet = meet


def _assert_twice_is_the_same(receiver: Receiver, *, most: int, least: int) -> None:
    counts = Counter(receiver.identities)
    texts = {
        (identity, one["message"], one["title"])
        for identity, one in zip(receiver.identities, receiver.got, strict=True)
    }
    assert len(texts) == len(counts)
    assert least <= sum(counts.values()) - len(counts) <= most


def test_two_processes_tell_once_and_the_end_is_told_too(database: Database, receiver: Receiver, start: Start) -> None:
    start()
    start()
    names = [f"x{number}" for number in range(20)]
    go_stale(database, *names)
    assert wait_until(lambda: sum(expanded(database, receiver.identities).values()) >= len(names), START_SECONDS)
    with database.begin() as connection:
        connection.execute(leases.delete())

    def missed() -> bool:
        with database.begin() as connection:
            found = connection.execute(text("select count(*) from k2.incidents where absent_since is not null"))
            return int(found.scalar_one()) == len(names)

    assert wait_until(missed, START_SECONDS)
    with database.begin() as connection:  # the hold passes
        connection.execute(text("update k2.incidents set absent_since = absent_since - interval '10 minutes'"))
    told = 2 * len(names)
    assert wait_until(lambda: sum(expanded(database, receiver.identities).values()) >= told, START_SECONDS)
    assert wait_until(lambda: undelivered(database) == 0, START_SECONDS)
    assert len(receiver.got) == 2
    assert expanded(database, receiver.identities) == Counter(f"lease/{name}#{n}" for name in names for n in (1, 2))


def test_sigterm_ends_it_in_time_while_a_service_hangs_and_the_next_one_tells(
    database: Database, receiver: Receiver, start: Start
) -> None:
    hanging, let_go = threading.Event(), threading.Event()

    def meet(_: dict[str, Any]) -> None:
        hanging.set()
        let_go.wait(START_SECONDS)

    receiver.meet = meet
    go_stale(database, "x1")
    process = start()
    assert hanging.wait(START_SECONDS)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(START_SECONDS)
    seconds = time.monotonic() - began
    receiver.meet = lambda _: None
    let_go.set()
    # the machine may be busy; cut short or not, it is the time that counts
    assert seconds < 2 * STOP_SECONDS
    assert process.returncode in (0, 5)
    start()
    assert wait_until(lambda: undelivered(database) == 0, START_SECONDS)
    assert set(receiver.identities) == {"lease/x1#1"}


def test_sigterm_ends_an_idle_one_with_0(database: Database, receiver: Receiver, start: Start, tmp_path: Path) -> None:
    process = start()
    assert wait_until(lambda: receiver.beats > 0, START_SECONDS)
    process.send_signal(signal.SIGTERM)
    assert process.wait(2 * STOP_SECONDS) == 0
    assert "Traceback" not in (tmp_path / "watch.log").read_text()


@pytest.fixture
def run(watched: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`k2 ...` in this process."""
    for name, value in as_environment(watched).items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: CliRunner().invoke(main, arguments)


def test_once_looks_tells_and_ends_and_incidents_shows_it(
    database: Database, receiver: Receiver, run: Callable[..., Result]
) -> None:
    go_stale(database, "x1")
    receiver.refuses = True
    done = run("watch", "--once")
    assert done.exit_code == 0, done.output
    assert "opened    [warning] The process that drives x1 is gone (lease/x1#1)" in done.stdout
    assert "0 delivered, 1 not delivered" in done.stdout
    (listed,) = json.loads(run("incidents", "list", "--json").stdout)
    assert (listed["key"], listed["severity"], listed["waiting"]) == ("lease/x1", "warning", 1)
    assert "error=503" in listed["problem"]
    receiver.refuses = False
    assert json.loads(run("incidents", "retry", "--json").stdout) == {"deliveries": 1}
    assert "1 delivered, 0 not delivered" in run("watch", "--once").stdout
    shown = json.loads(run("incidents", "show", "lease/x1", "--json").stdout)
    assert shown["what_to_do"].startswith("Start `k2 ingest --exchange x1` again")
    assert shown["told"][0]["to"][0]["delivered_at"] is not None
    assert receiver.identities == ["lease/x1#1"]
    assert "lease/x1" in run("incidents", "list").stdout
    with database.begin() as connection:
        connection.execute(leases.delete())
    closed = run("incidents", "close", "lease/x1", "--reason", "scrapped", "--by", "ann", "--json")
    assert json.loads(closed.stdout) == {"closed": "lease/x1", "told": "lease/x1#2"}
    assert run("incidents", "close", "lease/x1", "--reason", "again").exit_code == 4
    assert "1 delivered" in run("watch", "--once").stdout
    assert receiver.identities == ["lease/x1#1", "lease/x1#2"]
    assert "Closed by ann: scrapped" in receiver.got[1]["message"]
    missing = run("incidents", "show", "lease/x2")
    assert missing.exit_code == 4
    assert "k2 incidents list --all" in missing.stderr


def test_a_wrong_address_ends_it_before_the_first_round(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K2_ALERT_URLS", "slack://swordfish")
    done = run("watch", "--once")
    assert done.exit_code == 4
    assert "address 1" in done.stderr
    assert "swordfish" not in done.stderr + done.stdout


def test_a_test_message_goes_to_every_address(receiver: Receiver, run: Callable[..., Result]) -> None:
    done = run("incidents", "test", "--json")
    assert (done.exit_code, receiver.identities) == (0, ["test#0"])
    assert json.loads(done.stdout)[0]["answer"] == "taken"
    receiver.status = 403
    refused = run("incidents", "test")
    assert refused.exit_code == 1
    assert "error=403" in refused.stdout


def test_without_the_control_schema_it_says_so(run: Callable[..., Result]) -> None:
    done = run("watch")
    assert (done.exit_code, "k2 init" in done.stderr) == (4, True)


def test_secrets_of_alerts_are_not_shown(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K2_ALERT_URLS", "json://127.0.0.1/swordfish")
    monkeypatch.setenv("K2_ALERT_HEARTBEAT_URL", "https://beats.example/swordfish")
    shown = run("settings")
    assert shown.exit_code == 0
    assert "swordfish" not in shown.output
