"""Makes the faults of one stream happen: a decision over its rows, in the order in which the venue made them.

Faults of one symbol (or channel) never touch: after each, enough good messages pass for the pipeline's grace, so that
every one can be told from the next.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from k2_dagster.feeds.channels import Grace
from k2_dagster.feeds.simulator.damage import damage_of_number
from k2_dagster.feeds.simulator.faults import Fault, FaultType
from k2_dagster.feeds.simulator.plan import Injected, Plan
from k2_dagster.feeds.simulator.truth import DAMAGES, FaultRecord
from k2_dagster.feeds.simulator.venue import CHANNELS, VenueStream
from k2_dagster.schemas.common import MICROS_PER_SECOND
from k2_dagster.schemas.profiles import Domain

Int64s = NDArray[np.int64]

# Late messages come after this many times the grace (in messages of their symbol or channel): the gap was told by then.
LATE_HOLD_GRACES = 4
_TOLD = ("symbol", "session", "channel", "sequence", "previous_sequence")


@dataclass
class _Waiting:
    fault: Fault
    trigger: int
    unit: int
    record: FaultRecord | None = None
    held: list[pa.RecordBatch] = field(default_factory=list)


@dataclass
class _Held:
    """Late messages on their way: released after `countdown` more rows of the unit."""

    waiting: _Waiting
    countdown: int


class Injector:
    """The faults of one stream, in the order of their triggers (message numbers)."""

    def __init__(self, stream: VenueStream, names: list[str], grace: Grace) -> None:
        self._stream = stream
        self._codes = {name: place for place, name in enumerate(names)}
        self._guard = grace.messages + 1
        self._hold = LATE_HOLD_GRACES * max(grace.messages, 1)
        self._grace_micros = int(grace.seconds * MICROS_PER_SECOND)
        self._waiting: list[_Waiting] = []
        self._held: list[_Held] = []
        units = CHANNELS if stream.domain is Domain.CHANNEL else len(names)
        # Rows of each unit to leave alone: after a fault, and at the start of a session (a hole there cannot be seen).
        self._rest = np.zeros(units, np.int64)
        self._fresh = np.full(units, self._guard, np.int64)
        self._version = 0
        self._damages = 0
        self._messages: list[dict[str, Any]] = []

    @property
    def unplanted(self) -> list[Fault]:
        """Faults that have not begun."""
        return [one.fault for one in self._waiting if one.record is None]

    @property
    def unfinished(self) -> list[FaultRecord]:
        """Faults that have begun and are not over: more messages are needed, or late ones are still held."""
        waiting = [*self._waiting, *(one.waiting for one in self._held)]
        return [one.record for one in waiting if one.record is not None]

    def add(self, fault: Fault, trigger: int) -> None:
        """Plan a fault (with dataset and symbol filled in) from message number `trigger` on."""
        code = self._codes[fault.symbol or next(iter(self._codes))]
        unit = int(self._stream.units(np.array([code]))[0])
        self._waiting.append(_Waiting(fault, trigger, unit))
        self._waiting.sort(key=_turn)

    def reset_due(self, numbers: Int64s) -> int | None:
        """The row at which a session reset is due, if one is."""
        triggers = [one.trigger for one in self._waiting if one.fault.type is FaultType.SESSION_RESET]
        if not triggers or not len(numbers) or triggers[0] > numbers[-1]:
            return None
        return int(np.searchsorted(numbers, triggers[0]))

    def reset(self, at_micros: int) -> FaultRecord | None:
        """Start the next session, unless a fault is in progress: then it waits, and no other fault begins before it."""
        if self._held or self._rest.any() or any(one.record is not None for one in self._waiting):
            return None
        due = next(one for one in self._waiting if one.fault.type is FaultType.SESSION_RESET)
        self._waiting.remove(due)
        ended = self._stream.session
        record = self._record(due.fault, at_micros)
        record.session = self._stream.reset_session()
        record.note, record.complete = {"ended_session": ended}, True
        self._fresh[:] = self._guard
        return record

    def apply(self, rows: pa.RecordBatch, units: Int64s, numbers: Int64s, micros: Int64s) -> Injected:
        """Plant what is due in these rows: `units` as `VenueStream.units`, message numbers, send times."""
        plan = Plan(rows, units, numbers, micros, self._version)
        records: list[FaultRecord] = []
        if rows.num_rows:
            self._release_held(plan, records)
            # One that has begun goes on before any other begins, also one that was to begin earlier
            for waiting in sorted(self._waiting, key=_turn):
                self._plant(waiting, plan, records)
            self._rest_after(plan)
        return self._assembled(plan, records)

    def finish(self, rows: pa.RecordBatch, at_micros: int) -> Injected:
        """The run ends: what is held back is sent now, what is half done is told so. `rows`: an empty batch."""
        plan = Plan.of_end(rows, at_micros, self._version)
        unfinished = [one for one in self._waiting if one.record is not None]
        late = [one.waiting for one in self._held] + [one for one in unfinished if one.held]
        for waiting in late:
            self._release(plan, 0, waiting)
        records = [one.waiting.record for one in self._held] + [one.record for one in unfinished]
        self._waiting = [one for one in self._waiting if one.record is None]
        self._held = []
        return self._assembled(plan, [one for one in records if one is not None])

    def _plant(self, waiting: _Waiting, plan: Plan, records: list[FaultRecord]) -> None:
        kind = waiting.fault.type
        if waiting.trigger > plan.numbers[-1] or kind is FaultType.SESSION_RESET:
            return
        if kind is FaultType.SCHEMA_CHANGE:
            records.append(self._change_schema(waiting, plan))
            return
        if waiting.record is None and self._reset_is_overdue(waiting, plan):
            return
        self._take(waiting, plan, records)

    def _reset_is_overdue(self, waiting: _Waiting, plan: Plan) -> bool:
        resets = (one for one in self._waiting if one.fault.type is FaultType.SESSION_RESET)
        return any(one.trigger <= min(waiting.trigger, int(plan.numbers[0])) for one in resets)

    def _change_schema(self, waiting: _Waiting, plan: Plan) -> FaultRecord:
        row = int(np.searchsorted(plan.numbers, waiting.trigger))
        self._version += 1
        plan.version[row:] = self._version
        self._waiting.remove(waiting)
        record = self._record(waiting.fault, int(plan.micros[row]))
        record.note = {"version": self._version, "from_sequence": plan.rows.column("sequence")[row].as_py()}
        record.complete = True
        return record

    def _take(self, waiting: _Waiting, plan: Plan, records: list[FaultRecord]) -> None:
        """Take the next rows of the fault's unit, as many as are there and still needed."""
        unit, fault = waiting.unit, waiting.fault
        places = np.flatnonzero(plan.units == unit)
        rest = int(max(self._rest[unit], self._fresh[unit]))
        start = plan.next_free.get(unit, 0 if waiting.record is not None else rest)
        if waiting.record is None:
            start = max(start, int(np.searchsorted(plan.numbers[places], waiting.trigger)))
        missing = fault.count - (len(waiting.record.messages) if waiting.record is not None else 0)
        taken = places[start : start + missing]
        if not len(taken) or (fault.type is FaultType.REORDER and not self._can_reorder(plan.micros[taken], missing)):
            return
        if waiting.record is None:
            waiting.record = self._record(fault, int(plan.micros[taken[0]]))
            waiting.record.session = str(plan.rows.column("session")[int(taken[0])].as_py())
        self._note_messages(waiting.record, plan, taken)
        self._affect(waiting, plan, taken)
        if len(taken) < missing:
            plan.next_free[unit] = len(places)
            return
        self._waiting.remove(waiting)
        plan.next_free[unit] = start + len(taken) + self._guard
        waiting.record.complete = True
        if fault.type is FaultType.LATE:
            plan.next_free[unit] += self._hold
            self._release_or_hold(_Held(waiting, self._hold), places[start + len(taken) :], plan, records)
        else:
            records.append(waiting.record)

    def _can_reorder(self, micros: Int64s, count: int) -> bool:
        """All at once, and well within the grace in time: else the hole would be a gap before it is filled."""
        return len(micros) == count and int(micros[-1] - micros[0]) <= self._grace_micros // 2

    def _affect(self, waiting: _Waiting, plan: Plan, taken: Int64s) -> None:
        match waiting.fault.type:
            case FaultType.DROP:
                plan.keep[taken] = False
            case FaultType.LATE:
                plan.keep[taken] = False
                waiting.held.append(plan.rows.take(pa.array(taken)))
            case FaultType.LOSE:
                plan.repeat[taken] = 0
            case FaultType.DUPLICATE:
                plan.repeat[taken] = 2
            case FaultType.REORDER:
                plan.order[taken] = taken[::-1]
            case FaultType.OUT_OF_RANGE:
                plan.spoiled[taken] = 1 + np.arange(len(taken)) % 2
            case FaultType.JUMP:
                plan.damage[taken] = damage_of_number(by_venue=self._stream.domain.judged_by_ingest)
            case FaultType.CORRUPT:
                for row in taken.tolist():
                    name, reasons = DAMAGES[self._damages % len(DAMAGES)]
                    plan.damage[row] = 1 + self._damages % len(DAMAGES)
                    self._messages[plan.message[row]].update(damage=name, reasons=list(reasons))
                    self._damages += 1

    def _release_held(self, plan: Plan, records: list[FaultRecord]) -> None:
        held, self._held = self._held, []
        for one in held:
            self._release_or_hold(one, np.flatnonzero(plan.units == one.waiting.unit), plan, records)

    def _release_or_hold(self, held: _Held, places: Int64s, plan: Plan, records: list[FaultRecord]) -> None:
        if len(places) < held.countdown:
            self._held.append(_Held(held.waiting, held.countdown - len(places)))
        else:
            self._release(plan, int(places[held.countdown - 1]), held.waiting)
            records.extend([held.waiting.record] if held.waiting.record is not None else [])

    def _rest_after(self, plan: Plan) -> None:
        counts = np.bincount(plan.units, minlength=len(self._rest))
        for unit, free in plan.next_free.items():
            self._rest[unit] = max(self._rest[unit], free)
        self._rest = np.maximum(self._rest - counts, 0)
        self._fresh = np.maximum(self._fresh - counts, 0)

    def _record(self, fault: Fault, micros: int) -> FaultRecord:
        stream = self._stream
        return FaultRecord(
            fault, stream.dataset, stream.stream, stream.domain, stream.session, first_micros=micros, last_micros=micros
        )

    def _note_messages(self, record: FaultRecord, plan: Plan, taken: Int64s) -> None:
        told = plan.rows.select(list(_TOLD)).take(pa.array(taken)).to_pylist()
        plan.message[taken] = np.arange(len(self._messages), len(self._messages) + len(told))
        self._messages += told
        record.messages += told
        # What is reordered leaves in the opposite order, at the same times
        sent = plan.micros[taken].tolist()
        record.sent += sent[::-1] if record.fault.type is FaultType.REORDER else sent
        record.channel = told[0]["channel"]
        record.last_micros = int(plan.micros[taken[-1]])

    def _release(self, plan: Plan, place: int, waiting: _Waiting) -> None:
        """Send held messages after the row at `place`. They may have been told in an earlier batch."""
        if waiting.record is None:
            return
        told = waiting.record.messages
        known = {id(one): at for at, one in enumerate(self._messages)}
        self._messages += [one for one in told if id(one) not in known]
        known = {id(one): at for at, one in enumerate(self._messages)}
        places = np.array([known[id(one)] for one in told], np.int64)
        plan.released.append((place, pa.concat_batches(waiting.held), places))
        waiting.record.last_micros = int(plan.micros[place])

    def _assembled(self, plan: Plan, records: list[FaultRecord]) -> Injected:
        messages, self._messages = self._messages, []
        return plan.assembled(self._stream.dataset, messages, records)


def _turn(waiting: _Waiting) -> tuple[bool, int]:
    return waiting.record is None, waiting.trigger
