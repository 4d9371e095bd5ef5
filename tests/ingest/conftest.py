"""An exchange of a test's own on the shared stack, with topics, tables and control schema, and a way to publish."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)
from pyiceberg.catalog import Catalog

from k2_dagster.devstack.process import wait_until
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.drain import DrainReport, drain_exchange
from k2_dagster.ingest.stream import StreamDrain
from k2_dagster.kafka.clients import client_config, producer_config
from k2_dagster.kafka.registry import Registry
from k2_dagster.kafka.topics import describe, ensure_topics, watermarks
from k2_dagster.lake.catalog import close_catalog, load_table, open_catalog
from k2_dagster.lake.tables import ensure_tables
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.datasets import WIRE_DATASETS, table_name
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.schemas.topics import subject_name, topic_name
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import upgrade
from tests.ingest.helpers import avro

VISIBLE_SECONDS = 20.0
TICKS = WIRE_DATASETS["ticks"]


@dataclass
class Exchange:
    """One exchange with dense ticks on two partitions."""

    settings: Settings
    profiles: Profiles
    name: str
    catalog: Catalog
    database: Database
    schema_id: int
    numbers: dict[str, int] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        return topic_name("ticks", self.name)

    def tick(self, symbol: str = "A", sequence: int | None = None, **values: Any) -> bytes:
        """The next tick of a symbol, or the one of this number."""
        if sequence is None:
            sequence = self.numbers[symbol] = self.numbers.get(symbol, 0) + 1
        return avro(TICKS, self.schema_id, exchange=self.name, symbol=symbol, sequence=sequence, **values)

    def publish(
        self,
        values: Sequence[bytes | None],
        partition: int = 0,
        *,
        transaction: str = "",
        key: bytes | None = b"key",
        timestamp_ms: int = 0,
    ) -> None:
        """Write messages; `transaction` is "", "commit" or "abort"; a time of 0 is now."""
        config = producer_config(self.settings)
        if transaction:
            config["transactional.id"] = uuid.uuid4().hex
        producer = Producer(config)
        if transaction:
            producer.init_transactions(20)
            producer.begin_transaction()
        for value in values:
            producer.produce(self.topic, value, key, partition, timestamp=timestamp_ms)
        assert producer.flush(20) == 0
        if transaction == "commit":
            producer.commit_transaction(20)
        if transaction == "abort":
            producer.abort_transaction(20)

    def drain(self, **others: Any) -> DrainReport:
        """Drain the ticks until caught up."""
        settings = others.pop("settings", self.settings)
        return drain_exchange(
            settings, self.profiles, self.name, datasets=["ticks"], cap_seconds=60.0, stop=Event(), **others
        )

    def die_behind_quarantine(self) -> None:
        """A drain that dies between its quarantine commit and its data commit."""
        with Connections.open(self.settings, self.profiles) as connections:
            dying = StreamDrain(connections, self.name, "ticks", "a")
            position = dying._open()
            outcome = dying.judge(dying.read(), dict(position.starts))
            assert dying._committer is not None
            dying._committer._commit_quarantine(dying._committer.write(outcome))
            dying.close()

    def landed(self, dataset: str = "ticks") -> list[dict[str, Any]]:
        """The rows of a table, in the order of their positions."""
        rows = load_table(self.catalog, table_name(dataset)).scan().to_arrow().to_pylist()
        return sorted(rows, key=lambda one: (one["topic_epoch"], one["kafka_partition"], one["kafka_offset"]))

    def positions(self, dataset: str = "ticks") -> list[tuple[int, int]]:
        """(partition, offset) of every row, with repeats."""
        return [(one["kafka_partition"], one["kafka_offset"]) for one in self.landed(dataset)]

    def with_profile(self, version: int, **streams: str) -> "Exchange":
        """The same exchange under other profiles; see `profile_text`."""
        assert self.settings.profiles is not None
        path = self.settings.profiles.with_name(f"profiles-{version}.toml")
        path.write_text(profile_text(self.name, version, **streams))
        settings = self.settings.model_copy(update={"profiles": path})
        return replace(self, settings=settings, profiles=load_profiles(path))

    def trust_producers_clocks(self) -> None:
        """Let messages of the topic say when they were written, so that a test can write some of another day."""
        wanted = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}
        changes = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in wanted.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, self.topic, incremental_configs=changes)
        admin = AdminClient(client_config(self.settings))
        admin.incremental_alter_configs([resource])[resource].result(20)

    def remake_topic(self) -> None:
        """Delete the topic and create it again, with another id."""
        admin = AdminClient(client_config(self.settings))
        old = describe(self.settings, [self.topic])[self.topic].topic_id
        admin.delete_topics([self.topic])[self.topic].result(20)
        assert wait_until(lambda: self.topic not in describe(self.settings, [self.topic]), VISIBLE_SECONDS)
        admin.create_topics([NewTopic(self.topic, 2, 1)])[self.topic].result(20)

        def is_new() -> bool:
            found = describe(self.settings, [self.topic]).get(self.topic)
            return found is not None and found.topic_id != old

        assert wait_until(is_new, VISIBLE_SECONDS)
        watermarks(self.settings, self.topic, 2)


def profile_text(name: str, version: int, **streams: str) -> str:
    """Profiles of one exchange; `streams` gives the domain of each stream of ticks."""
    return f"""
        version = {version}
        [exchanges.{name}]
        title = "Test"
        asset_class = "crypto"
        calendar = "24/7"
        timezone = "UTC"
        entitlement_class = "test"
        partitions = 2
        on_critical_gap = "mark_stale"
        gap_grace_messages = 5
        """ + "\n".join(
        f'streams.{stream} = {{dataset = "ticks", domain = "{domain}"}}' for stream, domain in streams.items()
    )


@pytest.fixture
def exchange(settings: Settings, tmp_path: Path) -> Iterator[Exchange]:
    """An exchange that nothing else uses, initialised."""
    name = f"t_{uuid.uuid4().hex[:20]}"
    path = tmp_path / "profiles.toml"
    path.write_text(profile_text(name, 1, ticks_stream="dense"))
    settings = settings.model_copy(update={"profiles": path})
    profiles = load_profiles(path)
    database, catalog, registry = Database(settings), open_catalog(settings), Registry(settings)
    upgrade(database)
    ensure_tables(catalog)
    ensure_topics(settings, profiles, [name])
    topic = topic_name("ticks", name)
    schema_id = registry.register(subject_name(topic), avro_schema_text(TICKS))
    yield Exchange(settings, profiles, name, catalog, database, schema_id)
    registry.close()
    close_catalog(catalog)
    database.close()
    topics = [topic_name(dataset, name) for dataset in profiles.exchange(name).datasets]
    admin = AdminClient(client_config(settings))
    for deletion in admin.delete_topics(topics).values():
        deletion.exception(20)
