"""Apache Kafka 4.4 in KRaft mode: each broker is its own controller."""

import logging
from collections.abc import Sequence
from pathlib import Path

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from k2_dagster.devstack.downloads import Store, java
from k2_dagster.devstack.part import Part
from k2_dagster.devstack.process import Command, Progress, listens, run_tool
from k2_dagster.devstack.state import StackState, accepts

REPLICAS = 3
"""Copies of everything where there are enough brokers, as in production."""

MINIMUM_IN_SYNC_REPLICAS = 2
"""With three copies, one broker may die without a refused or a lost message."""

HEAP = ("-Xms256m", "-Xmx1g")
"""Enough for 240,000 messages/s."""

INTERNAL_PARTITIONS = 8
"""Of Kafka's own topics. The default of 50 makes the first transaction wait seconds, for nothing on one machine."""

SESSION_TIMEOUT_MILLISECONDS = 3_000
"""A killed broker is admitted again once its old session is over: with Kafka's 9 s it came back after 12.8 s."""

HEARTBEAT_MILLISECONDS = 500
"""Several fit into a session, so that one late heartbeat on a busy machine does not end it."""

COMPACTION_BUFFER_BYTES = 16 * 1024 * 1024
"""Taken at the start, for compacted topics; only Kafka's own are. With its 128 MB a broker held 390 MB, not 260."""

FORMAT_TIMEOUT_SECONDS = 60.0
"""Formatting takes 0.7 to 1.6 s on idle cores."""

CALL_TIMEOUT_SECONDS = 5.0
"""One metadata call to a local broker; a starting broker is asked again."""

_silent = logging.getLogger("k2_dagster.devstack.kafka.client")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


def broker_name(number: int) -> str:
    """The part's name of broker 1, 2, ..."""
    return f"kafka-{number}"


class KafkaBroker(Part):
    """One broker of the stack's cluster. Its data are in `<home>/kafka-<number>/data`."""

    def __init__(self, home: Path, state: StackState, number: int) -> None:
        super().__init__(broker_name(number), home)
        self.number = number
        self.state = state
        self._jars: list[Path] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.state.ports[self.name]}"

    @property
    def ports(self) -> Sequence[int]:
        return self.state.ports[self.name], self.state.ports[f"{self.name}-controller"]

    def prepare(self, progress: Progress) -> None:
        self.make_folders()
        self._jars = Store.of(self).files("kafka", progress)
        (self.folder / "server.properties").write_text(self._properties())
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(progress)

    def command(self) -> Command:
        return Command(
            arguments=[*self._java(*HEAP, self.marker), "kafka.Kafka", "server.properties"],
            folder=self.folder,
            marker=self.marker,
        )

    def answers(self, process: psutil.Process) -> bool:
        if not accepts(self.ports[0]) or not listens(process, self.ports[0]):
            return False
        cluster_id, numbers = describe_cluster(self.address)
        return cluster_id == self.state.cluster_id and self.number in numbers

    def _format(self, progress: Progress) -> None:
        progress(f"formatting {self.name}")
        # A format that was cut short has left files; they are of the same cluster, and nothing is in them
        options = ["--ignore-formatted", "-t", self.state.cluster_id, "-c", "server.properties"]
        arguments = ["kafka.tools.StorageTool", "format", *options]
        command = Command([*self._java(), *arguments], folder=self.folder, marker="")
        run_tool(command, FORMAT_TIMEOUT_SECONDS, f"formatting {self.name}", self.interrupted)

    def _java(self, *options: str) -> list[str]:
        logs = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return [str(java()), *self.java_options(), *options, logs, "-cp", ":".join(map(str, self._jars))]

    def _properties(self) -> str:
        brokers = range(1, self.state.brokers + 1)
        replicas = min(REPLICAS, self.state.brokers)
        in_sync = min(MINIMUM_IN_SYNC_REPLICAS, replicas)
        voters = ",".join(f"{n}@127.0.0.1:{self.state.ports[broker_name(n) + '-controller']}" for n in brokers)
        port, controller_port = self.ports
        values: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": self.number,
            "controller.quorum.voters": voters,
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.listener.names": "CONTROLLER",
            # Relative to the working folder, so that no character of the path needs escaping
            "log.dirs": "data",
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": INTERNAL_PARTITIONS,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "transaction.state.log.num.partitions": INTERNAL_PARTITIONS,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            "share.coordinator.state.topic.num.partitions": INTERNAL_PARTITIONS,
            "broker.session.timeout.ms": SESSION_TIMEOUT_MILLISECONDS,
            "broker.heartbeat.interval.ms": HEARTBEAT_MILLISECONDS,
            "log.cleaner.dedupe.buffer.size": COMPACTION_BUFFER_BYTES,
            "group.initial.rebalance.delay.ms": 0,
        }
        return "".join(f"{name}={value}\n" for name, value in values.items())


def describe_cluster(address: str) -> tuple[str, set[int]]:
    """The cluster's id and the numbers of its live brokers, as the broker at the address sees it; ("", empty set)
    when it does not answer."""
    client = AdminClient({"bootstrap.servers": address}, logger=_silent)
    try:
        metadata = client.list_topics(timeout=CALL_TIMEOUT_SECONDS)
    except KafkaException:
        return "", set()
    return str(metadata.cluster_id), set(metadata.brokers)
