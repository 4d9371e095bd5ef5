"""A simulated feed as it would lie in Kafka: encoded bytes with partition, offset and time; and what each message was.

The feed, its handler and its encoder are the real ones; Kafka and the registry are lists.
"""

import json
import random
import zlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from k2_dagster.errors import SchemaUnknown
from k2_dagster.feeds.encode import AvroEncoder, message_keys
from k2_dagster.feeds.handler import FeedHandler
from k2_dagster.feeds.numbering import Numbering
from k2_dagster.feeds.simulator.damage import FAR_NUMBERS, damaged, with_far_numbers
from k2_dagster.feeds.simulator.definitions import Definitions
from k2_dagster.feeds.simulator.feed import Outgoing, SimulatedFeed, changed_schema, with_added_fields
from k2_dagster.feeds.simulator.truth import DAMAGES
from k2_dagster.kafka.registry import RegisteredSchema
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.datasets import dataset_named
from k2_dagster.schemas.topics import CONTROL_DATASET, INSTRUMENTS_DATASET
from proofs.scenarios.again import bring_again, keep_patterns
from proofs.scenarios.asked import Scenario

# Offsets that a transaction's markers take: one place in so many, up to so many at once.
HOLE_SHARE, MOST_MARKERS = 0.01, 3
GOOD, COPY, DAMAGED, SPOILED, LATE, AGAIN = "good", "copy", "damaged", "spoiled", "late", "again"
# A damage of the number alone: everything else can be read.
FAR_NUMBER = "far_number"
_TOLD = (
    *("stream", "kind", "symbol", "session", "channel", "sequence", "previous_sequence"),
    *("publisher_session", "publisher_sequence", "exchange_timestamp"),
)
_CONTROL = ("first_sequence", "last_sequence", "state", "reason")


class Arrived(NamedTuple):
    """A message of a channel as its handler met it: number, venue's time and receiver's, UTC microseconds."""

    number: int
    micros: int
    received: int


class Sent(NamedTuple):
    """A message in Kafka. `row` is what it said before anything was done to its bytes, times as UTC microseconds;
    `state` what it is: good, copy, damaged, spoiled, late, or again (a number of a channel that another publisher
    session has brought). `damage` names the damage (to the bytes, or FAR_NUMBER). Headers say that it is not in its
    channel's order (`is_aside`)."""

    partition: int
    offset: int
    time_ms: int
    key: bytes
    value: bytes
    row: dict[str, Any]
    state: str
    damage: str
    is_aside: bool = False

    @property
    def is_readable(self) -> bool:
        """Whether it tells its session and its time."""
        return self.state != DAMAGED or self.damage == FAR_NUMBER


@dataclass
class Topic:
    """One topic's log, in the order of sending. `ends`: next offset of each partition."""

    dataset: str
    partitions: int
    first_offset: int
    chance: random.Random
    messages: list[Sent] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ends = dict.fromkeys(range(self.partitions), self.first_offset)

    def append(
        self, key: bytes, value: bytes, time_ms: int, row: dict[str, Any], state: str, damage: str, is_aside: bool
    ) -> None:
        """Put a message behind the others of its key's partition."""
        partition = zlib.crc32(key) % self.partitions
        if self.chance.random() < HOLE_SHARE:
            self.ends[partition] += self.chance.randint(1, MOST_MARKERS)
        offset = self.ends[partition]
        self.ends[partition] = offset + 1
        self.messages.append(Sent(partition, offset, time_ms, key, value, row, state, damage, is_aside))


class Kafka:
    """Topics and schemas of one exchange. As a publisher it takes what the feed handler says."""

    def __init__(self, scenario: Scenario) -> None:
        self._exchange = scenario.exchange
        chance = random.Random(scenario.seed)
        self.topics = {
            name: Topic(name, scenario.profile.partitions_of(name), scenario.first_offset, chance)
            for name in scenario.profile.datasets
        }
        self.schemas: list[RegisteredSchema] = []
        self._encoders: dict[str, AvroEncoder] = {}
        self._numbers: dict[str, Numbering] = {}
        self._session = ""
        # the schema of another dataset that damaged messages name
        self.foreign_id = self._encoder(avro_schema_text(dataset_named(CONTROL_DATASET))).schema_id

    def lookup(self, schema_id: int) -> RegisteredSchema:
        """As a registry does. Raises SchemaUnknown."""
        if not 0 < schema_id <= len(self.schemas):
            raise SchemaUnknown(f"no schema {schema_id}", schema_id=schema_id)
        return self.schemas[schema_id - 1]

    def publish(self, dataset: str, rows: pa.RecordBatch) -> int:
        """What the feed says beside its market, with a publisher pair of its own."""
        numbers = self._numbers.setdefault(dataset, Numbering()).next_numbers(rows.column("symbol"))
        for name, values in (
            ("publisher_sequence", numbers),
            ("publisher_session", pa.repeat(self._session, rows.num_rows)),
        ):
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(place, rows.schema.field(place), values)
        self.send(dataset, rows, avro_schema_text(dataset_named(dataset)))
        return len(numbers)

    def speak_as(self, publisher_session: str) -> None:
        """The publisher session of what the handler says."""
        self._session = publisher_session

    def send(
        self,
        dataset: str,
        rows: pa.RecordBatch,
        schema_text: str,
        copies: "np.ndarray[Any, Any] | None" = None,
        damages: "np.ndarray[Any, Any] | None" = None,
        behind: "np.ndarray[Any, Any] | None" = None,
        state: str = GOOD,
    ) -> None:
        """Encode the rows and append them; `copies` marks those that are sent a second time, `damages` as `damaged`,
        `behind` those that are not in the order of their channel. The others are of the `state`."""
        topic = self.topics[dataset]
        hurt = rows if damages is None else with_far_numbers(rows, damages)
        values = self._encoder(schema_text).encode(hurt).to_pylist()
        keys = message_keys(self._exchange, rows.column("symbol"))
        names = (*_TOLD, *(_CONTROL if dataset == CONTROL_DATASET else ()))
        told = _plain(rows.select(list(names))).to_pylist()
        # a record's time in Kafka is when it was published
        times = rows.column("publish_timestamp").cast(pa.int64()).to_numpy() // 1_000
        for at, (key, value, row) in enumerate(zip(keys, values, told, strict=True)):
            damage = int(damages[at]) if damages is not None else 0
            what = DAMAGED if damage else COPY if copies is not None and copies[at] else state
            name = FAR_NUMBER if damage in FAR_NUMBERS else DAMAGES[damage - 1][0] if damage else ""
            data = damaged(value, damage, self.foreign_id) if damage else value
            topic.append(key, data, int(times[at]), row, what, name, behind is not None and bool(behind[at]))

    def _encoder(self, schema_text: str) -> AvroEncoder:
        if schema_text not in self._encoders:
            number = len(self.schemas) + 1
            self.schemas.append(RegisteredSchema(number, "AVRO", schema_text))
            self._encoders[schema_text] = AvroEncoder(schema_text, number)
        return self._encoders[schema_text]


@dataclass(frozen=True)
class Run:
    """A feed that has been sent. `truth`: its faults, as lines; `seen`: (stream, channel, session) -> the first number
    that the handler saw of it; `arrived`: (channel, session) -> its messages as they came; `unplanted` counts what was
    asked for and did not happen."""

    kafka: Kafka
    truth: list[dict[str, Any]]
    seen: dict[tuple[str, str | None, str], int | None]
    arrived: dict[tuple[str, str], list[Arrived]]
    publisher_session: str
    unplanted: int


def sent(scenario: Scenario) -> Run:
    """Run the scenario's feed to its end."""
    feed, kafka = SimulatedFeed(scenario.profiles, scenario.parameters), Kafka(scenario)
    kafka.speak_as(feed.publisher_session)
    handler = FeedHandler(kafka, scenario.profiles, scenario.exchange)
    definitions = Definitions(scenario.profile, feed.instruments, scenario.parameters)
    truth: list[dict[str, Any]] = []
    seen: dict[tuple[str, str | None, str], int | None] = {}
    arrived: dict[tuple[str, str], list[Arrived]] = {}
    patterns: dict[tuple[str, str], pa.RecordBatch] = {}
    streams = [one.stream for one in feed.streams.values()]
    now = scenario.parameters.start_micros
    for stream in streams:
        handler.connection(stream, "connected", "the scenario starts", at_micros=now)
    for micros in definitions.due(now):
        kafka.publish(INSTRUMENTS_DATASET, definitions.rows(micros, stamped=True))
    for block in feed.blocks():
        for outgoing in block.outgoing:
            _note(outgoing.rows, seen, arrived)
            handler.observe(outgoing.rows)
            _send(kafka, outgoing, handler.behind)
            keep_patterns(outgoing, patterns)
            now = max(now, int(outgoing.send_micros[-1]))
        truth += [record.line(scenario.exchange) for record in block.records]
    handler.finish()
    for stream in streams:
        handler.connection(stream, "disconnected", "the scenario ends", at_micros=now)
    _mark(kafka, truth)
    lines = json.loads(json.dumps(truth))
    bring_again(kafka, lines, patterns)
    return Run(kafka, lines, seen, arrived, feed.publisher_session, len(feed.unplanted))


def _send(kafka: Kafka, outgoing: Outgoing, behind: "np.ndarray[Any, Any]") -> None:
    place = np.repeat(np.arange(len(outgoing.repeat)), outgoing.repeat)
    copies = np.concatenate([[False], place[1:] == place[:-1]]) if len(place) else np.zeros(0, bool)
    done = 0
    for part in outgoing.expanded().of_one_version():
        version, size = int(part.version[0]), part.rows.num_rows
        text = changed_schema(part.dataset, version) if version else avro_schema_text(dataset_named(part.dataset))
        rows = with_added_fields(part.rows, version)
        of_part = behind[place[done : done + size]]
        kafka.send(part.dataset, rows, text, copies[done : done + size], part.damage, of_part)
        done += size


def _note(
    rows: pa.RecordBatch,
    seen: dict[tuple[str, str | None, str], int | None],
    arrived: dict[tuple[str, str], list[Arrived]],
) -> None:
    names = ("stream", "channel", "session", "sequence", "exchange_timestamp", "receive_timestamp")
    columns = [one.to_pylist() for one in _plain(rows.select(list(names))).columns]
    for stream, channel, session, sequence, micros, received in zip(*columns, strict=True):
        seen.setdefault((stream, channel, session), sequence if channel is not None else None)
        if channel is not None:
            arrived.setdefault((channel, session), []).append(Arrived(sequence, micros, received))


def _mark(kafka: Kafka, truth: list[dict[str, Any]]) -> None:
    """Messages that the truth says were spoiled, or came behind their turn."""
    states = {
        (line["dataset"], one["symbol"], one["publisher_sequence"]): SPOILED if line["type"] == "out_of_range" else LATE
        for line in truth
        if line["type"] in ("out_of_range", "late", "reorder")
        for one in _displaced(line)
    }
    for topic in kafka.topics.values():
        topic.messages = [
            one._replace(state=states.get((topic.dataset, one.row["symbol"], one.row["publisher_sequence"]), one.state))
            for one in topic.messages
        ]


def _displaced(line: dict[str, Any]) -> list[dict[str, Any]]:
    """Of reordered messages the last leaves first and is in order; all others are behind it."""
    messages: list[dict[str, Any]] = line["messages"]
    return messages[:-1] if line["type"] == "reorder" else messages


def _plain(rows: pa.RecordBatch) -> pa.RecordBatch:
    columns = [one.cast(pa.int64()) if pa.types.is_timestamp(one.type) else one for one in rows.columns]
    return pa.RecordBatch.from_arrays(columns, names=rows.schema.names)
