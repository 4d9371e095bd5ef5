"""Streams that landed by the real ingest, from messages that the tests encode and produce themselves."""

import io
import random
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import fastavro
import pytest
from confluent_kafka import Producer
from pyiceberg.catalog import Catalog
from sqlalchemy import text

from k2_dagster.cli.init import initialize
from k2_dagster.devstack.postgres import PostgresServer
from k2_dagster.devstack.stack import Stack
from k2_dagster.devstack.state import load_state
from k2_dagster.ingest.drain import drain_exchange
from k2_dagster.kafka.clients import producer_config
from k2_dagster.kafka.registry import Registry
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.schemas.avro import avro_schema, avro_schema_text
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.schemas.topics import message_key, subject_name, topic_name
from k2_dagster.settings import Settings, load_settings
from k2_dagster.state.database import Database

SYMBOLS = ("AAA", "BBB", "CCC", "DDD", "EEE")
ROUNDS = 3
MESSAGES_PER_ROUND = 60
ABORTED_PER_ROUND = 7
PARTITIONS = 2
TRANSACTION_SECONDS = 30.0
PROFILE = """
version = 1
[exchanges.{name}]
title = "Test"
asset_class = "crypto"
calendar = "24/7"
timezone = "UTC"
entitlement_class = "test"
partitions = 2
on_critical_gap = "mark_stale"
[exchanges.{name}.streams.prints]
dataset = "ticks"
domain = "dense"
[exchanges.{name}.streams.tops]
dataset = "quotes"
domain = "monotone"
"""


@dataclass
class Feed:
    """Encodes and produces messages, in transactions; remembers what it sent."""

    settings: Settings
    exchange: str
    producer: Producer
    schema_ids: Mapping[str, int]
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    repeated: set[tuple[str, bytes]] = field(default_factory=set)
    damaged: set[bytes] = field(default_factory=set)
    sent: dict[str, list[tuple[bytes, bytes]]] = field(default_factory=lambda: {"ticks": [], "quotes": []})

    def messages(self, dataset: str, count: int) -> list[tuple[bytes, bytes]]:
        """The next messages, as (key, framed value)."""
        out = []
        for at in range(count):
            symbol = SYMBOLS[at % len(SYMBOLS)]
            number = self.numbers[dataset, symbol] = self.numbers.get((dataset, symbol), 0) + 1
            out.append((message_key(self.exchange, symbol), self.encode(dataset, self.record(dataset, symbol, number))))
        return out

    def record(self, dataset: str, symbol: str, number: int) -> dict[str, Any]:
        """A message's fields in wire form."""
        now = time.time_ns() // 1_000
        common = {
            "exchange": self.exchange,
            "stream": "prints" if dataset == "ticks" else "tops",
            "kind": "trade" if dataset == "ticks" else "quote",
            "symbol": symbol,
            "sequence": number,
            "publisher_session": "one",
            "publisher_sequence": number,
            "exchange_timestamp": now,
        }
        price = 10_000_000_000 + number * 1_234_567
        if dataset == "ticks":
            return {**common, "price": price, "size": 5 * 10**8 + number, "side": "buy", "conditions": ["x", "y"]}
        return {**common, "bid_price": price, "bid_size": number, "ask_price": price + 1, "ask_size": None}

    def unrepeated(self, dataset: str, row: Mapping[str, Any]) -> bool:
        """Whether the message of a row was sent once."""
        schema = fastavro.parse_schema(avro_schema(WIRE_DATASETS[dataset]))
        for value in (value for name, value in self.repeated if name == dataset):
            record: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
            if (record["symbol"], record["sequence"]) == (row["symbol"], row["sequence"]):
                return False
        return True

    def encode(self, dataset: str, record: Mapping[str, Any]) -> bytes:
        """In Confluent framing."""
        stream = io.BytesIO()
        stream.write(struct.pack(">bI", 0, self.schema_ids[dataset]))
        fastavro.schemaless_writer(stream, fastavro.parse_schema(avro_schema(WIRE_DATASETS[dataset])), dict(record))
        return stream.getvalue()

    def send(self, dataset: str, messages: Sequence[tuple[bytes, bytes]], *, abort: bool = False) -> None:
        """One transaction."""
        self.producer.begin_transaction()
        for key, value in messages:
            # By the symbol's last letter, so that both partitions have messages whatever the exchange is called
            self.producer.produce(topic_name(dataset, self.exchange), value, key, partition=key[-1] % PARTITIONS)
        if abort:
            self.producer.flush(TRANSACTION_SECONDS)
            self.producer.abort_transaction(TRANSACTION_SECONDS)
            return
        self.producer.commit_transaction(TRANSACTION_SECONDS)
        self.sent[dataset] += messages


@dataclass
class Landed:
    """A stack's streams after ingest. `plant` undoes nothing: restore with `restore`."""

    settings: Settings
    exchange: str
    feed: Feed
    catalog: Catalog
    database: Database
    saved: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)

    def drain(self) -> None:
        """Land what is there."""
        profiles = load_profiles(self.settings.profiles)
        report = drain_exchange(self.settings, profiles, self.exchange, cap_seconds=None, stop=Event())
        assert report.caught_up

    def save(self) -> None:
        """Remember where the catalog points and what the commits say."""
        for table in ("iceberg_tables", "k2.commits", "k2.attempts", "k2.baselines", "k2.losses"):
            with self.database.begin() as connection:
                rows = [dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()]
            self.saved.append((table, rows))

    def restore(self) -> None:
        """Put back what `save` remembered."""
        with self.database.begin() as connection:
            for row in dict(self.saved)["iceberg_tables"]:
                connection.execute(
                    text("UPDATE iceberg_tables SET metadata_location = :at WHERE table_name = :name"),
                    {"at": row["metadata_location"], "name": row["table_name"]},
                )
            connection.execute(text("DELETE FROM k2.commits"))
            connection.execute(text("INSERT INTO k2.commits OVERRIDING SYSTEM VALUE SELECT * FROM k2_saved_commits"))
            connection.execute(text("DELETE FROM k2.baselines"))
            connection.execute(text("INSERT INTO k2.baselines SELECT * FROM k2_saved_baselines"))

    def sql(self, statement: str, **values: Any) -> Any:
        """Run a statement in the control database."""
        with self.database.begin() as connection:
            return connection.execute(text(statement), values)


MakeLanded = Callable[[], Landed]


@pytest.fixture(scope="session")
def make_landed(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeLanded]:
    """Makes streams of an exchange of their own, with databases of their own, and lands them."""
    made: list[Landed] = []
    names: list[str] = []

    def make() -> Landed:
        names.append(f"test_{uuid.uuid4().hex[:12]}")
        folder = tmp_path_factory.mktemp("verify")
        made.append(_landed(stack, stack.create_database(names[-1]), folder))
        return made[-1]

    yield make
    for one in made:
        close_catalog(one.catalog)
        one.database.close()
    state = load_state(stack.home)
    assert state is not None
    with closing(PostgresServer(stack.home, state).connect()) as connection, connection.cursor() as cursor:
        for name in names:
            cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def shared_landed(make_landed: MakeLanded) -> Landed:
    """One landed exchange for all tests that plant a fault and take it back."""
    landed = make_landed()
    landed.sql("CREATE TABLE k2_saved_commits AS SELECT * FROM k2.commits")
    landed.sql("CREATE TABLE k2_saved_baselines AS SELECT * FROM k2.baselines")
    landed.save()
    return landed


@pytest.fixture
def landed(shared_landed: Landed) -> Iterator[Landed]:
    """The shared exchange; tables and records are put back after the test."""
    yield shared_landed
    shared_landed.restore()


def _landed(stack: Stack, database_uri: str, folder: Path) -> Landed:
    exchange = f"v_{uuid.uuid4().hex[:10]}"
    profiles_path = folder / "profiles.toml"
    profiles_path.write_text(PROFILE.format(name=exchange))
    own = {
        "K2_HOME": str(folder / "home"),
        "K2_CATALOG_URI": database_uri,
        "K2_WAREHOUSE": f"file://{folder}/warehouse",
        "K2_PROFILES": str(profiles_path),
    }
    settings = load_settings(stack.settings_environment() | own)
    initialize(settings, load_profiles(profiles_path), (exchange,))
    landed = Landed(settings, exchange, _feed(settings, exchange), open_catalog(settings), Database(settings))
    for number in range(ROUNDS):
        _send_round(landed.feed, random.Random(number))
        landed.drain()
    return landed


def _feed(settings: Settings, exchange: str) -> Feed:
    producer = Producer({**producer_config(settings), "transactional.id": f"verify-{exchange}"})
    producer.init_transactions(TRANSACTION_SECONDS)
    with closing(Registry(settings)) as registry:
        ids = {
            name: registry.register(subject_name(topic_name(name, exchange)), avro_schema_text(WIRE_DATASETS[name]))
            for name in ("ticks", "quotes")
        }
    return Feed(settings, exchange, producer, ids)


def _send_round(feed: Feed, chance: random.Random) -> None:
    """Good messages, an aborted transaction between them, duplicates of old and new ones, and damage."""
    for dataset in ("ticks", "quotes"):
        old = [one for one in feed.sent[dataset] if one[1] not in feed.damaged]
        first, second = (feed.messages(dataset, MESSAGES_PER_ROUND // 2) for _ in range(2))
        feed.send(dataset, first)
        feed.send(dataset, [(key, b"never committed") for key, _ in first[:ABORTED_PER_ROUND]], abort=True)
        again = chance.sample(old, 3) if old else []
        damaged = [(key, value[:-3]) for key, value in first[:2]]
        feed.damaged |= {value for _, value in damaged}
        feed.repeated |= {(dataset, value) for _, value in [*again, *second[:2]]}
        feed.send(dataset, [*second, *again, *second[:2], *damaged])


__all__ = ["Landed", "MakeLanded"]
