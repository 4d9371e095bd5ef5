"""Lands the topics of a scenario as ingest would, in one process: batches of any size, restarts, crashes, halts.

What decides is the real thing: decoder, rules, tracker, `BatchJudge`, and the fold into a real PostgreSQL. What is left
out are Kafka's client, Iceberg and the attempts between them, which the chaos proof kills.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from sqlalchemy import select

from k2_dagster.ingest.batch import BatchJudge
from k2_dagster.ingest.decode import Decoder
from k2_dagster.ingest.outcome import Held, Outcome
from k2_dagster.ingest.outcome import Topic as Incarnation
from k2_dagster.ingest.terms import terms_of
from k2_dagster.ingest.tracker import Tracker
from k2_dagster.kafka.batch import RawBatch
from k2_dagster.schemas.common import BEHIND_HEADER
from k2_dagster.schemas.datasets import dataset_named
from k2_dagster.schemas.topics import topic_name
from k2_dagster.state.breakers import Breakers, acknowledge_breaker, list_breakers, read_breakers
from k2_dagster.state.database import Database
from k2_dagster.state.gap_states import MISSING_STATES, GapEvent
from k2_dagster.state.gaps import record_event
from k2_dagster.state.ledger import as_records, fold_changes
from k2_dagster.state.tables import gaps
from proofs.scenarios.asked import Scenario
from proofs.scenarios.sending import Kafka, Sent, Topic

EPOCH = 0
# Batches: a few messages, some hundred, or most of a topic.
SIZES = ((1, 12), (100, 600), *[(600, 3_000)] * 3)
# Of one partition before the reader turns to another.
MOST_IN_A_ROW = 40
# After a batch, so often: the process ends with all that was judged (of that, so often behind the quarantine's append);
# or it ends between two commits; somebody decides about a gap; a halted partition is acknowledged.
CRASHES, QUARANTINED_FIRST, RESTARTS, DECISIONS, ACKNOWLEDGES = 0.1, 0.6, 0.2, 0.2, 0.3
DECIDED: tuple[GapEvent, ...] = ("request", "expire", "accept")
WHO, WHY = "scenario", "drawn"


@dataclass
class Landed:
    """What became of a topic. `places`: (partition, offset) of every row; `refused`: (partition, offset, reason);
    `decisions`: (gap's key, what, positions then); `state`: the tracker's at the end."""

    dataset: str
    places: Counter[tuple[int, int]] = field(default_factory=Counter)
    refused: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    decisions: list[tuple[tuple[Any, ...], GapEvent, dict[int, int]]] = field(default_factory=list)
    state: bytes = b""
    done: Counter[str] = field(default_factory=Counter)


class Ingest:
    """One topic of a scenario, from its first offset to its end."""

    def __init__(self, scenario: Scenario, kafka: Kafka, topic: Topic, database: Database) -> None:
        self._scenario, self._database = scenario, database
        self._dataset, self._ends = topic.dataset, topic.ends
        self._chance = random.Random(f"{scenario.seed} {scenario.exchange} {topic.dataset}")
        self._logs = [[one for one in topic.messages if one.partition == at] for at in range(topic.partitions)]
        self._read = [0] * topic.partitions
        self._positions = dict.fromkeys(range(topic.partitions), topic.first_offset)
        profile = scenario.profile
        self._terms = terms_of(profile)
        strict = frozenset(self._positions) if topic.first_offset == 0 else frozenset()
        incarnation = Incarnation(topic_name(topic.dataset, scenario.exchange), "scenario", EPOCH, strict)
        decoder = Decoder(dataset_named(topic.dataset), kafka.lookup)
        self._held: dict[int, dict[int, str]] = {}
        self._judge = BatchJudge(
            *(scenario.exchange, profile, decoder, Tracker(self._terms), incarnation),
            *(scenario.profiles.rules_version, Held()),
        )
        self._commits = 0
        self.landed = Landed(topic.dataset)
        self.landed.state = self._judge.tracker.dump()

    def run(self) -> Landed:
        """Land everything."""
        while any(self._positions[at] < end for at, end in self._ends.items()):
            halted = self._judge.breakers.halted
            if halted and (self._all_else_is_read() or self._chance.random() < ACKNOWLEDGES):
                self._acknowledge()
            raw, read = self._next()
            outcome = self._judge.judge(raw, dict(self._positions))
            if self._chance.random() < CRASHES:
                self._crash(outcome)
            else:
                self._commit(outcome, read)
                if outcome.halted or self._chance.random() < RESTARTS:
                    self._restart()
            if self._chance.random() < DECISIONS:
                self._decide()
        if self._judge.breakers.halted:
            self._acknowledge()
        return self.landed

    def _next(self) -> tuple[RawBatch, list[int]]:
        """The next messages of partitions that may be read, in turns, and how far each log is read then."""
        size, read = self._chance.randint(*self._chance.choice(SIZES)), list(self._read)
        chosen: list[Sent] = []
        while len(chosen) < size:
            left = [at for at in self._open() if read[at] < len(self._logs[at])]
            if not left:
                break
            at = self._chance.choice(left)
            part = self._logs[at][read[at] : read[at] + self._chance.randint(1, MOST_IN_A_ROW)]
            chosen += part
            read[at] += len(part)
        positions = dict(self._positions)
        for at in self._open():
            if read[at] == len(self._logs[at]):
                positions[at] = self._ends[at]
            elif read[at] > self._read[at]:
                positions[at] = self._logs[at][read[at] - 1].offset + 1
        return _raw(topic_name(self._dataset, self._scenario.exchange), chosen, positions), read

    def _open(self) -> list[int]:
        return [at for at in self._positions if at not in self._judge.breakers.halted]

    def _all_else_is_read(self) -> bool:
        return all(self._positions[at] == self._ends[at] for at in self._open())

    def _commit(self, outcome: Outcome, read: Sequence[int]) -> None:
        self._commits += 1
        self.landed.done["commits"] += 1
        for range_ in outcome.ranges:
            self._positions[range_.partition] = range_.end
        for at, log in enumerate(self._logs):
            # a halted partition ends inside the batch
            end = self._positions[at]
            self._read[at] = next(
                (place for place in range(self._read[at], read[at]) if log[place].offset >= end), read[at]
            )
        for rows in outcome.days.values():
            self.landed.places.update(zip(*(rows[name].to_pylist() for name in _PLACE), strict=True))
        self._note_refused(outcome)
        self.landed.state = outcome.state
        attempt = SimpleNamespace(
            id=f"{self._scenario.exchange}-{self._dataset}-{self._commits}",
            dataset=self._dataset,
            exchange=self._scenario.exchange,
            ledger=json.loads(json.dumps(as_records(outcome.ledger))),
        )
        if attempt.ledger:
            with self._database.begin() as connection:
                fold_changes(connection, attempt)

    def _crash(self, outcome: Outcome) -> None:
        """Nothing of the outcome lands but, perhaps, what went to quarantine, which commits first."""
        self.landed.done["crashes"] += 1
        if self._chance.random() < QUARANTINED_FIRST:
            self._note_refused(outcome)
            names = (*_PLACE, "reason")
            for partition, offset, reason in zip(*(outcome.quarantine[one].to_pylist() for one in names), strict=True):
                self._held.setdefault(partition, {})[offset] = reason
        self._restart()

    def _restart(self) -> None:
        """Everything that a process knew is gone but what it committed."""
        self.landed.done["restarts"] += 1
        old = self._judge
        breakers = (
            read_breakers(self._database, self._scenario.exchange, self._dataset, EPOCH)
            if self._halts
            else old.breakers
        )
        self._resume(breakers)

    @property
    def _halts(self) -> bool:
        return self._scenario.profile.on_critical_gap == "halt"

    def _resume(self, breakers: Breakers) -> None:
        tracker = Tracker.load(self.landed.state, self._terms)
        held = {
            partition: {offset: reason for offset, reason in found.items() if offset >= self._positions[partition]}
            for partition, found in self._held.items()
        }
        old = self._judge
        self._judge = BatchJudge(
            *(old.exchange, old.profile, old.decoder, tracker, old.topic, old.rules_version, Held(held), breakers)
        )

    def _note_refused(self, outcome: Outcome) -> None:
        names = (*_PLACE, "reason")
        self.landed.refused.update(zip(*(outcome.quarantine[name].to_pylist() for name in names), strict=True))

    def _acknowledge(self) -> None:
        for row in list_breakers(self._database, self._scenario.exchange, self._dataset, only_open=True):
            acknowledge_breaker(self._database, int(row["id"]), acknowledged_by=WHO, reason=WHY)
            self.landed.done["acknowledged"] += 1
        self._restart()

    def _decide(self) -> None:
        """Somebody asks for the numbers of a gap, gives them up, or goes on without them."""
        mine = (gaps.c.exchange == self._scenario.exchange) & (gaps.c.dataset == self._dataset)
        with self._database.begin() as connection:
            missing = select(gaps).where(mine, gaps.c.state.in_(MISSING_STATES)).order_by(gaps.c.id)
            found = connection.execute(missing).all()
            if not found:
                return
            gap, what = self._chance.choice(found), self._chance.choice(DECIDED)
            record_event(connection, gap.id, what, by=WHO, note=WHY)
        key = (gap.numbering, gap.session, gap.channel or gap.symbol, gap.first_sequence)
        self.landed.decisions.append((key, what, dict(self._positions)))


_PLACE = ("kafka_partition", "kafka_offset")


def _raw(topic: str, messages: Sequence[Sent], positions: dict[int, int]) -> RawBatch:
    return RawBatch(
        topic,
        np.array([one.partition for one in messages], np.int32),
        np.array([one.offset for one in messages], np.int64),
        np.array([one.time_ms for one in messages], np.int64),
        pa.array([one.key for one in messages], pa.binary()),
        pa.array([one.value for one in messages], pa.binary()),
        headers={at: [(BEHIND_HEADER, b"1")] for at, one in enumerate(messages) if one.is_aside},
        positions=positions,
    )
