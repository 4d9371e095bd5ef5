"""Runs a simulated feed against Kafka: in its own time or flat out, with the ground truth written beside it."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from k2_dagster.feeds.channel_rows import runs
from k2_dagster.feeds.delivery import Waiting
from k2_dagster.feeds.handler import FeedHandler
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.feeds.simulator.damage import damaged, with_far_numbers
from k2_dagster.feeds.simulator.definitions import Definitions
from k2_dagster.feeds.simulator.faults import Fault
from k2_dagster.feeds.simulator.feed import (
    Block,
    FeedParameters,
    Outgoing,
    SimulatedFeed,
    changed_schema,
    with_added_fields,
)
from k2_dagster.feeds.simulator.truth import FaultRecord, open_truth
from k2_dagster.schemas.common import MICROS_PER_SECOND
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.topics import CONTROL_DATASET, INSTRUMENTS_DATASET
from k2_dagster.settings import Settings

# In real time, what has become due is published this often: fine enough for a live view, coarse enough for columns.
SLICE_SECONDS = 0.05


@dataclass
class SimulationReport:
    """What a run did, also when it was `interrupted` before its end.

    `published` counts messages handed to Kafka per dataset, `undelivered` those of them that it did not take. `faults`
    counts planted ones by type, `unplanted` names those that were asked for and did not happen. `behind_seconds` is the
    longest time that a message left after it was due (0 when flat out).
    """

    exchange: str
    seed: int
    start_micros: int
    publisher_session: str
    generated: int = 0
    published: Counter[str] = field(default_factory=Counter)
    undelivered: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    fault_messages: Counter[str] = field(default_factory=Counter)
    unplanted: list[str] = field(default_factory=list)
    interrupted: bool = False
    behind_seconds: float = 0.0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0

    def line(self) -> dict[str, Any]:
        """One JSON-able object."""
        total = sum(self.published.values())
        rate = total / self.wall_seconds if self.wall_seconds else 0.0
        return {**vars(self), "published_total": total, "messages_per_second": round(rate, 1)}


class Simulation:
    """One run. `stop` ends it at the next slice: everything accepted is delivered, and the truth names nothing else."""

    def __init__(
        self,
        settings: Settings,
        profiles: Profiles,
        parameters: FeedParameters,
        *,
        flat_out: bool,
        stop: threading.Event,
        waiting: Waiting | None = None,
        truth: Path | None = None,
        on_progress: Callable[[SimulationReport], None] = lambda _: None,
    ) -> None:
        """`flat_out`: as fast as Kafka takes it, publish times from the schedule (the same bytes every time);
        else in real time, from `parameters.start_micros` on, which should be now."""
        self._settings = settings
        self._profiles = profiles
        self._exchange = parameters.exchange
        self._flat_out = flat_out
        self._stop = stop
        self._waiting = waiting
        self._truth_path = truth
        self._on_progress = on_progress
        self._feed = SimulatedFeed(profiles, parameters, stamp_publish_times=flat_out)
        self._definitions = Definitions(profiles.exchange(parameters.exchange), self._feed.instruments, parameters)
        self._pending: list[FaultRecord] = []
        self._not_happened: list[Fault] = []
        self._sent_micros = parameters.start_micros
        self.report = SimulationReport(
            parameters.exchange, parameters.seed, parameters.start_micros, self._feed.publisher_session
        )

    def run(self) -> SimulationReport:
        """Publish until the end or until stopped. Raises what `Publisher` raises, after delivering what it can;
        `report` has the counts then too."""
        started, cpu_started = time.monotonic(), time.process_time()
        publisher = Publisher(
            self._settings, self._profiles, self._exchange, publisher_session=self._feed.publisher_session,
            waiting=self._waiting,
        )  # fmt: skip
        self.report.published = publisher.accepted
        try:
            with ExitStack() as stack:
                truth = stack.enter_context(open_truth(self._truth_path)) if self._truth_path is not None else None
                stack.enter_context(publisher)
                self._run(publisher, truth)
        finally:
            self.report.undelivered = publisher.undelivered
            self.report.wall_seconds = round(time.monotonic() - started, 3)
            self.report.cpu_seconds = round(time.process_time() - cpu_started, 3)
        return self.report

    def _run(self, publisher: Publisher, truth: IO[str] | None) -> None:
        handler = FeedHandler(publisher, self._profiles, self._exchange)
        try:
            self._connection(handler, "connected", "the simulation starts")
            self._define(publisher, self._sent_micros)
            for block in self._feed.blocks():
                self._play(block, publisher, handler, truth)
                if self._stop.is_set():
                    self.report.interrupted = True
                    handler.speak_apart(f"{self._feed.publisher_session}-stopped-{self._sent_micros}")
                    break
            handler.finish()
            self._connection(handler, "disconnected", "the simulation ends")
        finally:
            # Nothing is left to tell of a run that came to its end
            self._tell_what_happened(truth)
            self.report.unplanted = [str(fault) for fault in (*self._not_happened, *self._feed.unplanted)]

    def _play(self, block: Block, publisher: Publisher, handler: FeedHandler, truth: IO[str] | None) -> None:
        self.report.generated += block.generated
        self._pending += block.records
        done = [0] * len(block.outgoing)
        while True:
            due_micros = None if self._flat_out else time.time_ns() // 1000
            for place, outgoing in enumerate(block.outgoing):
                stop = _rows_due(outgoing, due_micros)
                if stop > done[place]:
                    self._publish(outgoing.slice(done[place], stop), publisher, handler)
                    done[place] = stop
            self._tell(truth, [one for one in self._pending if one.last_micros <= self._sent_micros])
            self._on_progress(self.report)
            if all(stop == len(one.send_micros) for stop, one in zip(done, block.outgoing, strict=True)):
                break
            if self._stop.wait(SLICE_SECONDS):
                return

    def _publish(self, outgoing: Outgoing, publisher: Publisher, handler: FeedHandler) -> None:
        if not self._flat_out:
            late = time.time_ns() // 1000 - int(outgoing.send_micros[0])
            self.report.behind_seconds = max(self.report.behind_seconds, round(late / MICROS_PER_SECOND, 3))
        self._define(publisher, int(outgoing.send_micros[-1]))
        handler.observe(outgoing.rows)
        foreign_id = publisher.schema_id(CONTROL_DATASET)
        behind, done = np.repeat(handler.behind, outgoing.repeat), 0
        for part in outgoing.expanded().of_one_version():
            rows = with_added_fields(with_far_numbers(part.rows, part.damage), part.version[0])
            schema = changed_schema(part.dataset, int(part.version[0])) if part.version[0] else None
            keys, values = publisher.framed(part.dataset, rows, schema_text=schema)
            for row in np.flatnonzero(part.damage).tolist():
                values[row] = damaged(values[row], int(part.damage[row]), foreign_id)
            for run, is_behind in runs(behind[done : done + len(keys)]):
                publisher.publish_framed(part.dataset, keys[run], values[run], is_behind=is_behind)
            done += len(keys)
        self._sent_micros = max(self._sent_micros, int(outgoing.send_micros[-1]))

    def _define(self, publisher: Publisher, upto_micros: int) -> None:
        """Say what the symbols are, at the start and at each opening up to this time."""
        for micros in self._definitions.due(upto_micros):
            publisher.publish(INSTRUMENTS_DATASET, self._definitions.rows(micros, stamped=self._flat_out))

    def _connection(self, handler: FeedHandler, state: str, reason: str) -> None:
        for stream in self._feed.streams.values():
            handler.connection(stream.stream, state, reason, at_micros=self._sent_micros)

    def _tell_what_happened(self, truth: IO[str] | None) -> None:
        """When the run was ended early: of faults that had begun, what was sent by then; the others did not happen."""
        begun = []
        for record in (*self._pending, *self._feed.unfinished):
            if record.first_micros <= self._sent_micros:
                record.cut(self._sent_micros)
                begun.append(record)
            else:
                self._not_happened.append(record.fault)
        self._pending = []
        self._tell(truth, begun)

    def _tell(self, truth: IO[str] | None, records: list[FaultRecord]) -> None:
        """Write faults to the truth, and count them."""
        for record in records:
            if record in self._pending:
                self._pending.remove(record)
            line = record.line(self._exchange)
            self.report.faults[line["type"]] += 1
            self.report.fault_messages[line["type"]] += line["count"]
            if truth is not None:
                truth.write(json.dumps(line) + "\n")
                truth.flush()


def _rows_due(outgoing: Outgoing, due_micros: int | None) -> int:
    if due_micros is None:
        return len(outgoing.send_micros)
    return int(np.searchsorted(outgoing.send_micros, due_micros, side="right"))
