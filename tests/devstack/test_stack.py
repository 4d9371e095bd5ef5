"""The stack as a whole, on real servers."""

import contextlib
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import psycopg2
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from sqlalchemy import create_engine

from k2_dagster.devstack.postgres import PostgresServer
from k2_dagster.devstack.stack import Stack
from k2_dagster.devstack.state import StackState, load_state
from k2_dagster.lake.catalog import close_catalog, load_table, open_catalog
from k2_dagster.lake.tables import ensure_tables
from k2_dagster.settings import load_settings

pytestmark = pytest.mark.stack

SCHEMA = '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}'
INCOMPATIBLE = '{"type": "record", "name": "R", "fields": [{"name": "b", "type": "long"}]}'

AVRO = {"schemaType": "AVRO"}


@pytest.fixture(scope="module")
def victim() -> Iterator[Stack]:
    """A stack of this module's own, whose parts may be killed."""
    yield from _temporary_stack(1)


def _temporary_stack(brokers: int) -> Iterator[Stack]:
    # Characters that mean something in addresses
    home = Path(tempfile.mkdtemp(prefix="k2-victim c++ 100%-"))
    own = Stack(home, brokers)
    try:
        own.up()
        yield own
    finally:
        own.down(purge=True)
        shutil.rmtree(home, ignore_errors=True)


def produce(stack: Stack, topic: str, *values: bytes) -> None:
    servers = stack.addresses().kafka_bootstrap_servers
    producer = Producer({"bootstrap.servers": servers, "acks": "all", "log_level": 0})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(30) == 0


def consume(stack: Stack, topic: str, count: int) -> list[bytes | None]:
    settings = {"bootstrap.servers": stack.addresses().kafka_bootstrap_servers, "group.id": uuid.uuid4().hex}
    consumer = Consumer(settings | {"log_level": 0})
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages = consumer.consume(count, timeout=30)
    consumer.close()
    return [message.value() for message in messages]


def create_topic(stack: Stack, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": stack.addresses().kafka_bootstrap_servers, "log_level": 0})
    admin.create_topics([NewTopic(topic, 1)])[topic].result(30)


def register(stack: Stack, subject: str, schema: str) -> httpx.Response:
    url = f"{stack.addresses().schema_registry_url}/subjects/{subject}/versions"
    return httpx.post(url, json=AVRO | {"schema": schema}, timeout=10)


def execute(stack: Stack, statement: str) -> list[tuple[object, ...]]:
    state = load_state(stack.home)
    assert state is not None
    opened = psycopg2.connect(host=state.socket_folder, user="postgres", dbname="k2")
    with contextlib.closing(opened) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def processes_of(stack: Stack) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(stack.home) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def pids(stack: Stack) -> dict[str, int | None]:
    return {part.name: part.pid for part in stack.status()}


def test_up_again_reuses_what_runs(stack: Stack) -> None:
    before = pids(stack)
    said: list[str] = []

    stack.up(said.append)

    assert pids(stack) == before
    assert said == []


def test_nothing_listens_beyond_this_machine(stack: Stack) -> None:
    family = [
        member
        for part in stack.status()
        for process in [psutil.Process(part.pid)]
        for member in [process, *process.children(recursive=True)]
    ]

    listening = [item.laddr for each in family for item in each.net_connections("tcp") if item.status == "LISTEN"]

    assert len(listening) == 3
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_stacks_live_side_by_side(stack: Stack, victim: Stack) -> None:
    topic = f"only-here-{uuid.uuid4().hex}"
    create_topic(victim, topic)

    one, other = stack.addresses(), victim.addresses()

    assert one.kafka_bootstrap_servers != other.kafka_bootstrap_servers
    assert one.schema_registry_url != other.schema_registry_url
    assert one.catalog_uri != other.catalog_uri
    admin = AdminClient({"bootstrap.servers": one.kafka_bootstrap_servers})
    assert topic not in admin.list_topics(timeout=10).topics


@pytest.mark.parametrize("part", ["kafka-1", "registry", "postgres"])
def test_a_part_whose_record_is_lost_is_found_again(victim: Stack, part: str) -> None:
    before = pids(victim)
    (victim.home / "run" / f"{part}.json").unlink()

    assert pids(victim) == before
    victim.up()
    assert pids(victim) == before


def test_the_addresses_of_a_strange_home_are_understood(victim: Stack) -> None:
    chosen = load_settings({"K2_HOME": str(victim.home)})
    engine = create_engine(chosen.catalog_uri.get_secret_value())
    with engine.connect() as connection:
        assert connection.exec_driver_sql("select 1").scalar() == 1
    engine.dispose()
    catalog = open_catalog(chosen)
    ensure_tables(catalog)
    assert load_table(catalog, "market_data.ticks").location().startswith(f"file://{victim.home}")
    close_catalog(catalog)


@pytest.mark.parametrize("part", ["kafka-1", "registry", "postgres"])
def test_a_killed_part_comes_back_with_its_data(victim: Stack, part: str) -> None:
    name = f"t{uuid.uuid4().hex}"
    create_topic(victim, name)
    produce(victim, name, b"one", b"two")
    schema_id = register(victim, name, SCHEMA).raise_for_status().json()["id"]
    execute(victim, f"CREATE TABLE {name} AS SELECT 7 AS value")
    before = pids(victim)

    victim.kill(part)
    assert [each.name for each in victim.status() if each.state == "stopped"] == [part]
    victim.up()

    after = pids(victim)
    assert [each for each in before if before[each] != after[each]] == [part]
    assert consume(victim, name, 2) == [b"one", b"two"]
    assert register(victim, name, SCHEMA).json()["id"] == schema_id
    assert register(victim, name, INCOMPATIBLE).status_code == httpx.codes.CONFLICT
    assert execute(victim, f"SELECT value FROM {name}") == [(7,)]


def test_one_part_can_be_stopped_and_started(victim: Stack) -> None:
    victim.stop("registry")
    assert {part.name: part.state for part in victim.status()}["registry"] == "stopped"

    victim.start("registry")

    assert {part.state for part in victim.status()} == {"running"}


class Impostor(BaseHTTPRequestHandler):
    """Answers everything with success."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_foreign_server_is_not_taken_for_ours(victim: Stack) -> None:
    old = victim.addresses().schema_registry_url
    victim.kill("registry")
    impostor = ThreadingHTTPServer(("127.0.0.1", httpx.URL(old).port or 0), Impostor)
    thread = threading.Thread(target=impostor.serve_forever)
    thread.start()
    said: list[str] = []
    try:
        assert httpx.get(f"{old}/subjects").is_success
        assert {part.name: part.state for part in victim.status()}["registry"] == "stopped"
        victim.up(said.append)
    finally:
        impostor.shutdown()
        thread.join()
        impostor.server_close()

    new = victim.addresses().schema_registry_url
    assert new != old
    assert any("another program listens on port" in line for line in said)
    assert load_settings({"K2_HOME": str(victim.home)}).schema_registry_url == new
    assert register(victim, f"s{uuid.uuid4().hex}", SCHEMA).is_success


def test_down_leaves_no_process_and_keeps_the_data(victim: Stack) -> None:
    execute(victim, "CREATE TABLE kept AS SELECT 1 AS value")
    before = victim.addresses()
    assert len(processes_of(victim)) >= 3

    victim.down()

    assert processes_of(victim) == []
    assert {part.state for part in victim.status()} == {"stopped"}
    assert victim.up() == before
    assert execute(victim, "SELECT value FROM kept") == [(1,)]


def test_a_kill_while_the_cluster_is_made_leaves_nothing_that_is_started(victim: Stack) -> None:
    """initdb writes PG_VERSION first, and a lock file with a negative number."""
    postgres = PostgresServer(victim.home, victim_state(victim))
    victim.down()
    shutil.rmtree(postgres.data)
    partial = postgres.data.with_name("data.partial")
    partial.mkdir()
    (partial / "PG_VERSION").write_text("18\n")

    victim.up()

    assert execute(victim, "SELECT 1") == [(1,)]
    assert not partial.exists()


@pytest.mark.parametrize("pid", ["-17", "0", "4194305"])
def test_the_lock_file_of_a_dead_server_is_no_obstacle(victim: Stack, pid: str) -> None:
    postgres = PostgresServer(victim.home, victim_state(victim))
    victim.stop("postgres")
    (postgres.data / "postmaster.pid").write_text(f"{pid}\n{postgres.data}\n")

    victim.start("postgres")

    assert execute(victim, "SELECT 1") == [(1,)]


def test_a_format_that_was_cut_short_is_done_again(victim: Stack) -> None:
    victim.stop("kafka-1")
    (victim.home / "kafka-1" / "data" / "meta.properties").unlink()

    victim.start("kafka-1")

    assert {part.state for part in victim.status()} == {"running"}


def victim_state(victim: Stack) -> StackState:
    state = load_state(victim.home)
    assert state is not None
    return state


def test_three_brokers_survive_the_loss_of_one() -> None:
    topic = "survivor"
    for three in _temporary_stack(3):
        home = three.home
        create_topic(three, topic)
        produce(three, topic, b"before")

        three.kill("kafka-2")
        produce(three, topic, b"during")
        three.start("kafka-2")

        assert consume(three, topic, 2) == [b"before", b"during"]
        assert load_settings(three.settings_environment()).kafka_replication_factor == 3
        assert {part.state for part in three.status()} == {"running"}
    assert not home.exists()
