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

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.handler import FeedHandler
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.feeds.simulator.damage import damaged
from k2_dagster.feeds.simulator.feed import (
    Block,
    FeedParameters,
    Outgoing,
    SimulatedFeed,
    changed_schema,
    with_added_fields,
)
from k2_dagster.feeds.simulator.truth import FaultRecord
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.topics import CONTROL_DATASET
from k2_dagster.settings import Settings

# In real time, what has become due is published this often: fine enough for a live view, coarse enough for columns.
SLICE_SECONDS = 0.05
MICROS_PER_SECOND = 1_000_000


@dataclass
class SimulationReport:
    """What a run did. `published` counts messages handed to Kafka per dataset (all delivered once `run` returns);
    `faults` counts planted ones by type; `interrupted` when it was stopped before its end."""

    exchange: str
    seed: int
    start_micros: int
    publisher_session: str
    generated: int = 0
    published: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    fault_messages: Counter[str] = field(default_factory=Counter)
    unplanted: list[str] = field(default_factory=list)
    interrupted: bool = False
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
        self._truth_path = truth
        self._on_progress = on_progress
        self._feed = SimulatedFeed(profiles, parameters, stamp_publish_times=flat_out)
        self._pending: list[FaultRecord] = []
        self._sent_micros = parameters.start_micros
        self.report = SimulationReport(
            parameters.exchange, parameters.seed, parameters.start_micros, self._feed.publisher_session
        )

    def run(self) -> SimulationReport:
        """Publish until the end or until stopped. Raises what `Publisher` raises, after delivering what it can."""
        started, cpu_started = time.monotonic(), time.process_time()
        with ExitStack() as stack:
            truth = stack.enter_context(_opened(self._truth_path)) if self._truth_path is not None else None
            publisher = stack.enter_context(
                Publisher(
                    self._settings, self._profiles, self._exchange, publisher_session=self._feed.publisher_session
                )
            )
            handler = FeedHandler(publisher, self._profiles, self._exchange)
            self._connection(handler, "connected", "the simulation starts")
            for block in self._feed.blocks():
                self._play(block, publisher, handler, truth)
                if self._stop.is_set():
                    self.report.interrupted = True
                    break
            self._count(CONTROL_DATASET, handler.finish())
            self._connection(handler, "disconnected", "the simulation ends")
            self._tell(truth, complete=False)
        self.report.unplanted = [str(fault) for fault in self._feed.unplanted]
        self.report.wall_seconds = round(time.monotonic() - started, 3)
        self.report.cpu_seconds = round(time.process_time() - cpu_started, 3)
        return self.report

    def _play(self, block: Block, publisher: Publisher, handler: FeedHandler, truth: IO[str] | None) -> None:
        self._pending += block.records
        done = [0] * len(block.outgoing)
        while True:
            due_micros = None if self._flat_out else time.time_ns() // 1000
            for place, outgoing in enumerate(block.outgoing):
                stop = _rows_due(outgoing, due_micros)
                if stop > done[place]:
                    self._publish(outgoing.slice(done[place], stop), publisher, handler)
                    done[place] = stop
            self._tell(truth, complete=True)
            self._on_progress(self.report)
            if all(stop == len(one.send_micros) for stop, one in zip(done, block.outgoing, strict=True)):
                break
            if self._stop.wait(SLICE_SECONDS):
                return
        self.report.generated += block.generated

    def _publish(self, outgoing: Outgoing, publisher: Publisher, handler: FeedHandler) -> None:
        self._count(CONTROL_DATASET, handler.observe(outgoing.rows))
        foreign_id = publisher.schema_id(CONTROL_DATASET)
        for part in outgoing.expanded().of_one_version():
            rows = with_added_fields(part.rows, part.version[0])
            schema = changed_schema(part.dataset, int(part.version[0])) if part.version[0] else None
            keys, values = publisher.framed(part.dataset, rows, schema_text=schema)
            for row in np.flatnonzero(part.damage).tolist():
                values[row] = damaged(values[row], int(part.damage[row]), foreign_id)
            self._count(part.dataset, publisher.publish_framed(part.dataset, keys, values))
        self._sent_micros = max(self._sent_micros, int(outgoing.send_micros[-1]))

    def _count(self, dataset: str, messages: int) -> None:
        self.report.published[dataset] += messages

    def _connection(self, handler: FeedHandler, state: str, reason: str) -> None:
        for stream in self._feed.streams.values():
            told = handler.connection(stream.stream, state, reason, at_micros=self._sent_micros)
            self._count(CONTROL_DATASET, told)

    def _tell(self, truth: IO[str] | None, *, complete: bool) -> None:
        """Write the faults whose messages have all been sent; at the end, also those that were cut short."""
        ready = [one for one in self._pending if one.last_micros <= self._sent_micros]
        if not complete:
            begun = [one for one in self._pending if one.first_micros <= self._sent_micros < one.last_micros]
            for one in begun:
                one.complete = False
            ready += begun
        for record in ready:
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


def _opened(path: Path) -> IO[str]:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"{path}: {error.strerror}", advice="--truth needs a file that can be written"
        ) from error
