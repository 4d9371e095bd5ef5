"""From a raw batch to what will be committed: rows, quarantine rows, ranges, ledger changes and the next state.

Pure but for the schema lookup: the same messages from the same state give the same outcome, however they were split.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest import kernel
from k2_dagster.ingest.accounts import committed_ranges
from k2_dagster.ingest.breaking import critical_gaps, cut, opening, resumed
from k2_dagster.ingest.channel_numbers import aside
from k2_dagster.ingest.columns import Codes
from k2_dagster.ingest.control_changes import control_changes
from k2_dagster.ingest.decode import DecodedBatch, Decoder, distinct_ids
from k2_dagster.ingest.duplicates import first_seen
from k2_dagster.ingest.gather import gather
from k2_dagster.ingest.ledger import Told, ledger_changes
from k2_dagster.ingest.outcome import (
    Held,
    Int64s,
    Outcome,
    Topic,
    int64_values,
    outcome_counts,
    stamps,
    valid,
)
from k2_dagster.ingest.quarantined import Quarantined, quarantine_table
from k2_dagster.ingest.refusal import Refusal
from k2_dagster.ingest.refused import with_refused
from k2_dagster.ingest.refusing import refused_by_number
from k2_dagster.ingest.returned import originals
from k2_dagster.ingest.rows import Accepted, Days
from k2_dagster.ingest.rules import FIRST_DAY_NUMBER, MICROS_PER_DAY, MS_PER_DAY, Validated, Validator
from k2_dagster.ingest.tracker import Input, Tracker, Verdicts
from k2_dagster.kafka.batch import RawBatch
from k2_dagster.schemas.common import REFUSED_FIRST_HEADER
from k2_dagster.schemas.control import CONTROL
from k2_dagster.schemas.profiles import Domain, ExchangeProfile
from k2_dagster.state.breakers import NO_BREAKERS, Breakers
from k2_dagster.state.ledger import Change

# Verdicts that quarantine a message although its content is good: they change no state when judged again. A jump does:
# judged again, its message is one that was refused, which says the same of its number.
_REPEATED = ("duplicate", "identity_horizon")


@dataclass
class BatchJudge:
    """Judges the batches of one dataset and exchange, in order. Owns the tracker."""

    exchange: str
    profile: ExchangeProfile
    decoder: Decoder
    tracker: Tracker
    topic: Topic
    rules_version: int
    held: Held
    breakers: Breakers = NO_BREAKERS

    def __post_init__(self) -> None:
        self.dataset = self.decoder.dataset
        self.validator = Validator(self.dataset, self.exchange, self.profile)
        self._halts = self.profile.on_critical_gap == "halt" and self.dataset is not CONTROL
        self._before: bytes | None = self.tracker.dump() if self._halts else None

    def judge(self, raw: RawBatch, starts: Mapping[int, int]) -> Outcome:
        """`starts` are the positions before the batch. Raises only registry errors, before any state moves.

        An outcome that halts partitions ends there; nothing may be judged behind it.
        """
        outcome = self._judged(raw, starts)
        gaps = critical_gaps(outcome.ledger, self.breakers) if self._halts else {}
        if gaps:
            assert self._before is not None
            self.tracker = Tracker.load(self._before, self.tracker.terms)
            ends = {partition: gap.reported_offset + 1 for partition, gap in gaps.items()}
            outcome = self._judged(cut(raw, ends), starts)
            halts = [opening(gaps[partition]) for partition in sorted(gaps)]
            outcome = replace(outcome, ledger=[*outcome.ledger, *halts], halted=frozenset(gaps))
        outcome, self.breakers = resumed(outcome, self.breakers, self.topic.epoch)
        self._before = outcome.state
        return outcome

    def _judged(self, raw: RawBatch, starts: Mapping[int, int]) -> Outcome:
        decoded = self.decoder.decode(raw)
        checked = self.validator.check(decoded.wire, decoded.rows, raw.timestamp_ms[decoded.rows])
        held = self._held_rows(raw)
        rows = self._input(raw, decoded, checked, held)
        verdicts = self.tracker.judge(rows, self.topic.strict_partitions)
        refusals = self._refusals(decoded, checked, verdicts, rows, held)
        return self._outcome(raw, decoded, checked, verdicts, rows, refusals, held, starts)

    def _held_rows(self, raw: RawBatch) -> dict[int, str]:
        out: dict[int, str] = {}
        for partition, reasons in self.held.reasons.items():
            at = np.flatnonzero(raw.partition == partition)
            for row in at[np.isin(raw.offset[at], list(reasons))].tolist():
                out[row] = reasons[int(raw.offset[row])]
        return out

    def _input(self, raw: RawBatch, decoded: DecodedBatch, checked: Validated, held: Mapping[int, str]) -> Input:
        count, at = len(raw), decoded.rows
        flag = np.zeros(count, dtype=np.int8)
        flag[at] = kernel.GOOD
        for row in checked.refused:
            flag[at[row]] = kernel.UNREADABLE if row in checked.unnumbered else kernel.REFUSED
        for row, reason in held.items():
            if flag[row] == kernel.GOOD and reason not in _REPEATED:
                flag[row] = kernel.REFUSED
        streams, rows_of = checked.streams, checked.stream_rows
        covering = [info is not None and info.domain.covers_many for info in streams]
        dense = [info is not None and info.domain is Domain.DENSE for info in streams]
        sequence = int64_values(decoded.wire.column("sequence"))
        pair = decoded.wire.column("publisher_sequence")
        named = decoded.wire.column("publisher_session")
        codes = {name: _spread(checked.codes[name], at, count) for name in _CODED}
        by_channel = [info is not None and info.by_channel for info in streams]
        numbered = (
            _of_streams(by_channel, rows_of) & valid(decoded.wire.column("sequence")) if any(by_channel) else None
        )
        rows = Input(
            partition=raw.partition,
            offset=raw.offset,
            time_ms=raw.timestamp_ms,
            flag=flag,
            by_venue=_scatter(
                _of_streams([info is not None and info.by_venue for info in streams], rows_of), at, count
            ),
            sparse=_scatter(_of_streams(covering, rows_of), at, count),
            stream=codes["stream"],
            kind=codes["kind"],
            session=codes["session"],
            symbol=self._symbols(raw, codes["symbol"], flag),
            sequence=_scatter(sequence, at, count),
            previous=_scatter(_previous(sequence, decoded.wire, _of_streams(dense, rows_of)), at, count),
            event_micros=_event_micros(raw, decoded, flag),
            publisher_session=codes["publisher_session"],
            publisher_sequence=_scatter(int64_values(pair), at, count),
            has_publisher=_scatter(valid(pair) & valid(named), at, count),
            originals=originals(raw.headers, REFUSED_FIRST_HEADER),
            in_channel=None if numbered is None else _scatter(numbered, at, count),
            channel=codes["channel"],
            is_aside=aside(raw.headers, count),
        )
        return with_refused(rows, decoded.refused, self.dataset, self.profile) if decoded.refused else rows

    def _symbols(self, raw: RawBatch, symbols: Codes, flag: npt.NDArray[np.int8]) -> Codes:
        """An unreadable message has the symbol that its key names, if it is a key of ours."""
        unreadable = np.flatnonzero(flag == kernel.UNREADABLE)
        if not len(unreadable):
            return symbols
        values = list(symbols.values)
        index = {value: place for place, value in enumerate(values)}
        indices = symbols.indices.copy()
        prefix = f"{self.exchange}.".encode()
        keys = raw.keys.take(pa.array(unreadable)).to_pylist()
        for row, key in zip(unreadable.tolist(), keys, strict=True):
            named = key[len(prefix) :].decode(errors="replace") if key and key.startswith(prefix) else None
            if named not in index:
                index[named] = len(values)
                values.append(named)
            indices[row] = index[named]
        return Codes(indices, values)

    def _refusals(
        self,
        decoded: DecodedBatch,
        checked: Validated,
        verdicts: Verdicts,
        rows: Input,
        held: Mapping[int, str],
    ) -> list[Refusal]:
        """Every message that goes to quarantine, but for those it holds already."""
        again = [row for row in decoded.refused if verdicts.verdict[row] == kernel.DUPLICATE]
        out = [one for one in (*decoded.refusals, *checked.refused.values()) if one.row not in again]
        out += [Refusal(row, "duplicate", "the same input was refused before") for row in again]
        out += refused_by_number(rows, verdicts)
        fresh = [one for one in out if one.row not in held]
        return sorted(fresh, key=lambda one: one.row)

    def _outcome(
        self,
        raw: RawBatch,
        decoded: DecodedBatch,
        checked: Validated,
        verdicts: Verdicts,
        rows: Input,
        refusals: list[Refusal],
        held: Mapping[int, str],
        starts: Mapping[int, int],
    ) -> Outcome:
        landed = _scatter(np.ones(len(decoded.rows), dtype=bool), decoded.rows, len(raw))
        landed &= rows.flag == kernel.GOOD
        landed &= (verdicts.verdict == kernel.IN_ORDER) | (verdicts.verdict == kernel.LATE)
        landed[list(held)] = False
        all_decoded = len(decoded.rows) == len(raw)
        places = np.flatnonzero(landed if all_decoded else landed[decoded.rows])
        at = places if all_decoded else decoded.rows[places]
        now = datetime.now(UTC)
        accepted = Accepted(
            wire=decoded.wire,
            places=places,
            messages=at,
            codes=checked.codes,
            days=gather(checked.days, places),
            stamps=stamps(self.topic, self.rules_version, raw, decoded.schema_ids, now),
        )
        quarantined = Quarantined(
            raw, refusals, decoded.schema_ids, rows.symbol, first_seen(raw, rows, landed, refusals, verdicts.copied)
        )
        fresh = np.zeros(len(raw), dtype=bool)
        fresh[[one.row for one in refusals]] = True
        ranges = committed_ranges(self.topic, raw, decoded, landed, fresh | _marked(held, len(raw)), starts)
        return Outcome(
            days=Days(self.dataset, accepted),
            quarantine=quarantine_table(
                quarantined, self.exchange, self.dataset.name, self.topic, self.rules_version, now
            ),
            ranges=ranges,
            quarantine_ranges=committed_ranges(self.topic, raw, decoded, np.zeros(len(raw), dtype=bool), fresh, starts),
            counts=outcome_counts(raw, at, refusals, held, verdicts, rows, checked),
            schema_ids=distinct_ids(decoded.schema_ids),
            ledger=self._ledger(Told(raw, decoded, checked, self.profile, self.topic.epoch), verdicts, places),
            state=self.tracker.dump(),
        )

    def _ledger(self, told: Told, verdicts: Verdicts, landed: Int64s) -> list[Change]:
        """`landed` are places in the wire batch."""
        others = control_changes(told, landed) if self.dataset is CONTROL else []
        return ledger_changes(told, verdicts, others)


Flags = npt.NDArray[np.bool_]
_CODED = ("stream", "kind", "session", "channel", "symbol", "publisher_session")


def _event_micros(raw: RawBatch, decoded: DecodedBatch, flag: npt.NDArray[np.int8]) -> Int64s:
    """The venue's time of each message. A refused message may say anything: what no table would take is none."""
    out = _scatter(int64_values(decoded.wire.column("exchange_timestamp")), decoded.rows, len(raw))
    doubted = np.flatnonzero(flag != kernel.GOOD)
    if len(doubted):
        out = out.copy()
        latest = (raw.timestamp_ms[doubted] // MS_PER_DAY + 2) * MICROS_PER_DAY
        credible = (out[doubted] >= FIRST_DAY_NUMBER * MICROS_PER_DAY) & (out[doubted] < latest)
        out[doubted[~credible]] = kernel.NEVER
    return out


def _marked(rows: Mapping[int, str], count: int) -> npt.NDArray[np.bool_]:
    out = np.zeros(count, dtype=bool)
    out[list(rows)] = True
    return out


def _spread(codes: Codes, at: Int64s, count: int) -> Codes:
    if len(at) == count:
        return codes
    indices = np.zeros(count, dtype=np.int32)
    indices[at] = codes.indices
    return Codes(indices, codes.values or [None])


def _scatter(values: npt.NDArray[Any], at: Int64s, count: int) -> npt.NDArray[Any]:
    """The values at their places among `count`, zeros between them."""
    if len(at) == count:
        return values
    out = np.zeros(count, dtype=values.dtype)
    out[at] = values
    return out


def _of_streams(known: list[bool], stream_rows: Int64s) -> Flags:
    """What is known of each row's stream; where all agree, as nearly always, without a look at the rows."""
    if len(set(known)) == 1:
        return np.full(len(stream_rows), known[0])
    out: Flags = np.array(known, dtype=bool)[stream_rows]
    return out


def _previous(sequence: Int64s, wire: pa.RecordBatch, dense: Flags) -> Int64s:
    """The number before each row's: in a dense stream the next lower one, else what the row says."""
    if dense.all():
        return sequence - 1
    return np.where(dense, sequence - 1, int64_values(wire.column("previous_sequence")))
