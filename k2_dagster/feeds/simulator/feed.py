"""A simulated feed: the messages of an exchange, faults included, as a pure function of its parameters."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.channels import Grace
from k2_dagster.feeds.numbering import Numbering
from k2_dagster.feeds.simulator.faults import Fault, FaultPlan, FaultType, checked, data_datasets
from k2_dagster.feeds.simulator.injector import Injector
from k2_dagster.feeds.simulator.intensity import Pattern, Schedule
from k2_dagster.feeds.simulator.market import Chunk, Market
from k2_dagster.feeds.simulator.plan import Injected
from k2_dagster.feeds.simulator.snapshots import Books, begun_with_snapshots, books_before
from k2_dagster.feeds.simulator.symbols import make_instruments
from k2_dagster.feeds.simulator.truth import FaultRecord
from k2_dagster.feeds.simulator.venue import VenueStream, payload
from k2_dagster.schemas.arrow import TIMESTAMP, wire_schema
from k2_dagster.schemas.avro import avro_schema
from k2_dagster.schemas.common import MICROS_PER_SECOND
from k2_dagster.schemas.datasets import dataset_named
from k2_dagster.schemas.profiles import ExchangeProfile, Profiles

Int64s = NDArray[np.int64]

# From the venue to the feed handler: at least this long, and as much again on average.
LATENCY_MICROS = 150
BOOK = "book"
# A field that a schema change adds: `venue_note_1`, `venue_note_2`, ...
ADDED_FIELD = "venue_note_{}"


@dataclass(frozen=True)
class FeedParameters:
    """What a run depends on. Without `seconds` it does not end; `rate` is in messages per second, all datasets
    together; `start_micros` is the time of the first message (UTC microseconds)."""

    exchange: str
    symbols: int
    rate: float
    seed: int
    start_micros: int
    seconds: float | None = None
    pattern: Pattern = "flat"
    plan: FaultPlan = FaultPlan()  # noqa: RUF009  (frozen)


@dataclass(frozen=True)
class Outgoing:
    """Rows of one dataset in send order, with the publisher pair. See `Injected` for the other columns."""

    dataset: str
    rows: pa.RecordBatch
    send_micros: Int64s
    repeat: Int64s
    damage: Int64s
    version: Int64s

    def slice(self, start: int, stop: int) -> "Outgoing":
        """Rows `start` to `stop`; the original rows are shared."""
        part = slice(start, stop)
        return Outgoing(
            self.dataset, self.rows.slice(start, stop - start), self.send_micros[part], self.repeat[part],
            self.damage[part], self.version[part],
        )  # fmt: skip

    def expanded(self) -> "Outgoing":
        """What goes to Kafka: lost rows left out, duplicated rows twice."""
        if (self.repeat == 1).all():
            return self
        place = np.repeat(np.arange(len(self.repeat)), self.repeat)
        return Outgoing(
            self.dataset, self.rows.take(pa.array(place)), self.send_micros[place], np.ones(len(place), np.int64),
            self.damage[place], self.version[place],
        )  # fmt: skip

    def of_one_version(self) -> Iterator["Outgoing"]:
        """Parts in which the schema version does not change."""
        edges = [0, *(np.flatnonzero(np.diff(self.version)) + 1).tolist(), len(self.version)]
        for start, stop in itertools.pairwise(edges):
            if stop > start:
                yield self.slice(start, stop)


@dataclass(frozen=True)
class Block:
    """What one chunk of the market gave: rows per dataset, and the faults completed in it. `books` are as they were
    before it, where they were asked for."""

    outgoing: list[Outgoing]
    records: list[FaultRecord]
    generated: int
    books: Books | None = None


class SimulatedFeed:
    """The same profiles and parameters give the same blocks, byte for byte.

    Raises ConfigurationError for an unknown exchange, for parameters out of range and for faults that cannot happen.
    """

    def __init__(
        self,
        profiles: Profiles,
        parameters: FeedParameters,
        *,
        stamp_publish_times: bool = True,
        keep_books: bool = False,
    ) -> None:
        """`stamp_publish_times`: derive `publish_timestamp` from the schedule; else it is null, for the publisher.
        `keep_books`: blocks have the books before them."""
        _check(parameters)
        profile = profiles.exchange(parameters.exchange)
        rng = np.random.default_rng(parameters.seed)
        self._parameters = parameters
        self._stamp = stamp_publish_times
        self.instruments = make_instruments(profile, parameters.symbols, rng)
        datasets = data_datasets(profile)
        self._market = Market(self.instruments, rng, frozenset(datasets))
        self._latency = np.random.default_rng([parameters.seed, 1])
        self._schedule = Schedule(
            profile, rate=parameters.rate, pattern=parameters.pattern, start_micros=parameters.start_micros,
            seed=parameters.seed,
        )  # fmt: skip
        self.total = None if parameters.seconds is None else self._schedule.messages_within(parameters.seconds)
        start = datetime.fromtimestamp(parameters.start_micros / MICROS_PER_SECOND, UTC)
        self.run = start.strftime("%Y%m%dT%H%M%S.%f")
        self.publisher_session = f"sim-{parameters.seed}-{self.run}"
        self.streams = {name: self._stream(profile, name) for name in datasets}
        names = self.instruments.names
        grace = Grace(profile.gap_grace_messages, profile.gap_grace_seconds)
        self._injectors = {name: Injector(stream, names, grace) for name, stream in self.streams.items()}
        self._numbering = {name: Numbering() for name in datasets}
        self._profile = profile
        for fault in parameters.plan.faults:
            self._add(fault)
        self._random = parameters.plan.random_faults(profile, names)
        self._next_random = next(self._random, None)
        plan = parameters.plan
        resets = {fault.type for fault in plan.faults} | set(plan.random_types if plan.random_rate else ())
        self._tells_books = keep_books
        self._keeps_books = keep_books or (BOOK in self.streams and FaultType.SESSION_RESET in resets)
        self._received_micros: dict[str, int] = dict.fromkeys((*datasets, ""), 0)

    @property
    def unplanted(self) -> list[Fault]:
        """Faults asked for that did not begin (yet)."""
        return [fault for injector in self._injectors.values() for fault in injector.unplanted]

    @property
    def unfinished(self) -> list[FaultRecord]:
        """Faults that have begun and are not over, as far as the blocks that were taken go."""
        return [record for injector in self._injectors.values() for record in injector.unfinished]

    def blocks(self) -> Iterator[Block]:
        """The run, in order; to be taken once. Held messages come in the last block."""
        done = 0
        last_micros = self._parameters.start_micros
        while self.total is None or done < self.total:
            chunk = self._market.next_chunk(keep_books=self._keeps_books)
            upto = done + chunk.messages if self.total is None else min(done + chunk.messages, self.total)
            while self._next_random is not None and (self._next_random.at_message or 0) < upto:
                self._add(self._next_random)
                self._next_random = next(self._random, None)
            block = self._block(chunk, upto)
            last_micros = max([last_micros, *(int(one.send_micros[-1]) for one in block.outgoing)])
            books = books_before(chunk, self.instruments) if self._tells_books else None
            yield replace(block, generated=upto - done, books=books)
            done = upto
        ends = [(name, one.finish(_no_rows(name), last_micros)) for name, one in self._injectors.items()]
        yield self._finished(ends, [])

    def _add(self, fault: Fault) -> None:
        fault = checked(fault, self._profile, self.instruments.names)
        trigger = fault.at_message
        if trigger is None:
            trigger = self._schedule.messages_within(fault.at_seconds or 0.0)
        self._injectors[fault.dataset or ""].add(fault, trigger)

    def _stream(self, profile: ExchangeProfile, dataset: str) -> VenueStream:
        name, found = next((name, one) for name, one in profile.streams.items() if one.dataset == dataset)
        return VenueStream(self._parameters.exchange, dataset, name, found.domain, self.instruments.names, self.run)

    def _block(self, chunk: Chunk, upto: int) -> Block:
        micros = self._schedule.times(chunk.first_number)
        latency = LATENCY_MICROS + self._latency.exponential(LATENCY_MICROS, len(micros)).astype(np.int64)
        received = self._in_order("", micros + latency)
        injected: list[tuple[str, Injected]] = []
        records: list[FaultRecord] = []
        for name in self.streams:
            found, resets = self._dataset(name, chunk, upto, micros, received)
            injected += [(name, one) for one in found]
            records += resets
        return self._finished(injected, records)

    def _dataset(
        self, name: str, chunk: Chunk, upto: int, micros: Int64s, received: Int64s
    ) -> tuple[list[Injected], list[FaultRecord]]:
        """One dataset's rows of a chunk, cut where a session ends."""
        stream, injector = self.streams[name], self._injectors[name]
        event, number, width, columns = payload(name, chunk)
        limit = int(np.searchsorted(number, upto))
        injected: list[Injected] = []
        resets: list[FaultRecord] = []
        start, may_reset = 0, True
        while start < limit:
            due = injector.reset_due(number[start:limit]) if may_reset else None
            stop = limit if due is None else start + due
            part, events = slice(start, stop), event[start:stop]
            if stop > start:
                symbol = chunk.symbol[events]
                cut = {key: column.slice(start, stop - start) for key, column in columns.items()}
                rows = stream.rows(symbol, number[part], width[part], cut, micros[events], received[events])
                injected.append(injector.apply(rows, stream.units(symbol), number[part], micros[events]))
            if due is not None:
                record = injector.reset(int(micros[event[stop]]))
                resets += [record] if record is not None else []
                may_reset = record is not None
                if record is not None and name == BOOK:
                    chunk, missing = begun_with_snapshots(chunk, self.instruments, stop)
                    self._market.snapshot_next(missing)
                    event, number, width, columns = payload(name, chunk)
            start = stop
        return injected, resets

    def _finished(self, injected: list[tuple[str, Injected]], records: list[FaultRecord]) -> Block:
        outgoing = []
        for name, one in injected:
            records = records + one.records
            if one.rows.num_rows:
                outgoing.append(self._stamped(name, one))
        return Block(outgoing, records, 0)

    def _stamped(self, name: str, injected: Injected) -> Outgoing:
        rows = injected.rows
        numbers = self._numbering[name].next_numbers(rows.column("symbol"))
        for row in np.flatnonzero(injected.message >= 0).tolist():
            injected.messages[injected.message[row]]["publisher_sequence"] = numbers[row].as_py()
        # Also a message that comes late or out of its order is received when it comes
        received = self._in_order(name, rows.column("receive_timestamp").cast(pa.int64()).to_numpy())
        received_column = pa.array(received).view(TIMESTAMP)
        known = {
            "publisher_sequence": numbers,
            "publisher_session": pa.repeat(self.publisher_session, rows.num_rows),
            "receive_timestamp": received_column,
        }
        if self._stamp:
            known["publish_timestamp"] = received_column
        columns = [known.get(one.name, column) for one, column in zip(rows.schema, rows.columns, strict=True)]
        return Outgoing(
            name, pa.RecordBatch.from_arrays(columns, schema=rows.schema), injected.send_micros, injected.repeat,
            injected.damage, injected.version,
        )  # fmt: skip

    def _in_order(self, line: str, received: Int64s) -> Int64s:
        """Receive times that never fall: messages come one behind the other. `line`: the dataset, or "" for all."""
        if not len(received):
            return received
        ordered: Int64s = np.maximum.accumulate(np.maximum(received, self._received_micros[line]))
        self._received_micros[line] = int(ordered[-1])
        return ordered


def changed_schema(dataset: str, version: int) -> str:
    """Avro schema of a dataset with `version` optional fields added, as text."""
    schema = avro_schema(dataset_named(dataset))
    for place in range(1, version + 1):
        added = {"name": ADDED_FIELD.format(place), "type": ["null", "string"], "default": None}
        schema["fields"].append(added)
    return json.dumps(schema, separators=(",", ":"))


def with_added_fields(rows: pa.RecordBatch, version: int) -> pa.RecordBatch:
    """The rows with a value in each field that `changed_schema` adds."""
    for place in range(1, version + 1):
        name = ADDED_FIELD.format(place)
        rows = rows.append_column(name, pa.repeat(f"since version {place}", rows.num_rows))
    return rows


def _no_rows(dataset: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=wire_schema(dataset_named(dataset)))


def _check(parameters: FeedParameters) -> None:
    for name, value in (("symbols", parameters.symbols), ("rate", parameters.rate), ("seconds", parameters.seconds)):
        if value is not None and value <= 0:
            raise ConfigurationError(f"{name} was {value}", advice="it must be above zero", field=name)
