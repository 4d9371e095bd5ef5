"""From a raw batch to what will be committed: rows, quarantine rows, ranges, ledger changes and the next state.

Pure but for the schema lookup: the same messages from the same state give the same outcome, however they were split.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2_dagster.ingest import kernel
from k2_dagster.ingest.columns import Codes
from k2_dagster.ingest.decode import DecodedBatch, Decoder, distinct_ids
from k2_dagster.ingest.duplicates import first_seen
from k2_dagster.ingest.ledger import ledger_changes
from k2_dagster.ingest.quarantined import Quarantined, quarantine_table
from k2_dagster.ingest.refusal import Refusal
from k2_dagster.ingest.rows import Accepted, by_day
from k2_dagster.ingest.rules import Validated, Validator
from k2_dagster.ingest.tracker import Input, Tracker, Verdicts
from k2_dagster.kafka.batch import RawBatch
from k2_dagster.schemas.common import ORIGIN_HEADER, ORIGINS
from k2_dagster.schemas.digest import row_digests, total
from k2_dagster.schemas.profiles import Domain, ExchangeProfile
from k2_dagster.state.attempts import Range
from k2_dagster.state.gaps import LedgerChange

Int64s = npt.NDArray[np.int64]

_REFUSING_VERDICTS = (
    (kernel.DUPLICATE, "duplicate", "the identity has landed before"),
    (kernel.HORIZON, "identity_horizon", "its number is older than what is remembered of its session"),
)
# Verdicts that quarantine a message although its content is good: they change no state when judged again.
_REPEATED = ("duplicate", "identity_horizon")


@dataclass(frozen=True, slots=True)
class Topic:
    """The topic being drained: its incarnation, and which partitions were read from their very beginning."""

    name: str
    topic_id: str
    epoch: int
    strict_partitions: frozenset[int]


@dataclass(frozen=True, slots=True)
class Held:
    """What quarantine already holds of the range: offset -> reason, per partition (D20: not appended again)."""

    reasons: Mapping[int, Mapping[int, str]] = field(default_factory=dict)

    def of(self, partition: int, offset: int) -> str | None:
        """The reason under which quarantine holds this offset, if it does."""
        return self.reasons.get(partition, {}).get(offset)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch becomes. `days` maps YYYY-MM-DD to the rows of that day, in file order."""

    days: Mapping[str, pa.Table]
    quarantine: pa.Table
    ranges: list[Range]
    quarantine_ranges: list[Range]
    counts: dict[str, Any]
    schema_ids: list[int]
    ledger: list[LedgerChange]
    state: bytes


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

    def __post_init__(self) -> None:
        self.dataset = self.decoder.dataset
        self.validator = Validator(self.dataset, self.exchange, self.profile)

    def judge(self, raw: RawBatch, starts: Mapping[int, int]) -> Outcome:
        """`starts` are the positions before the batch. Raises only registry errors, before any state moves."""
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
        by_venue = np.zeros(count, dtype=bool)
        sparse = np.zeros(count, dtype=bool)
        known = [info is not None and info.by_venue for info in checked.streams]
        linked = [info is not None and info.domain is Domain.LINKED for info in checked.streams]
        dense = [info is not None and info.domain is Domain.DENSE for info in checked.streams]
        by_venue[at] = np.array(known, dtype=bool)[checked.stream_rows]
        sparse[at] = np.array(linked, dtype=bool)[checked.stream_rows]
        is_dense = np.array(dense, dtype=bool)[checked.stream_rows]
        sequence = _int64(decoded.wire.column("sequence"))
        previous = np.where(is_dense, sequence - 1, _int64(decoded.wire.column("previous_sequence")))
        pair = decoded.wire.column("publisher_sequence")
        named = decoded.wire.column("publisher_session")
        has_pair = (pair.is_valid().to_numpy(zero_copy_only=False)) & named.is_valid().to_numpy(zero_copy_only=False)
        codes = {name: _spread(checked.codes[name], at, count) for name in _CODED}
        return Input(
            partition=raw.partition,
            offset=raw.offset,
            time_ms=raw.timestamp_ms,
            flag=flag,
            by_venue=by_venue,
            sparse=sparse,
            stream=codes["stream"],
            kind=codes["kind"],
            session=codes["session"],
            symbol=self._symbols(raw, codes["symbol"], flag),
            sequence=_scatter(sequence, at, count),
            previous=_scatter(previous, at, count),
            publisher_session=codes["publisher_session"],
            publisher_sequence=_scatter(_int64(pair), at, count),
            has_publisher=_scatter(has_pair.astype(np.int64), at, count).astype(bool),
        )

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
        out = [*decoded.refusals, *checked.refused.values()]
        good = rows.flag == kernel.GOOD
        for verdict, reason, detail in _REFUSING_VERDICTS:
            at = np.flatnonzero(good & (verdicts.verdict == verdict)).tolist()
            out += [Refusal(row, reason, detail) for row in at]
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
        landed = np.zeros(len(raw), dtype=bool)
        landed[decoded.rows] = True
        landed &= rows.flag == kernel.GOOD
        landed &= (verdicts.verdict == kernel.IN_ORDER) | (verdicts.verdict == kernel.LATE)
        landed[list(held)] = False
        places = np.flatnonzero(landed[decoded.rows])
        at = decoded.rows[places]
        now = datetime.now(UTC)
        accepted = Accepted(
            wire=decoded.wire,
            places=places,
            codes=checked.codes,
            days=checked.days[places],
            stamps=self._stamps(raw, at, decoded.schema_ids, now),
        )
        quarantined = Quarantined(
            raw, refusals, decoded.schema_ids, rows.symbol, first_seen(raw, rows, landed, refusals)
        )
        fresh = np.zeros(len(raw), dtype=bool)
        fresh[[one.row for one in refusals]] = True
        ranges = self._ranges(raw, decoded, landed, fresh | _marked(held, len(raw)), starts)
        return Outcome(
            days=by_day(self.dataset, accepted),
            quarantine=quarantine_table(
                quarantined, self.exchange, self.dataset.name, self.topic, self.rules_version, now
            ),
            ranges=ranges,
            quarantine_ranges=self._ranges(raw, decoded, np.zeros(len(raw), dtype=bool), fresh, starts),
            counts=_counts(raw, at, refusals, held, verdicts, rows, checked),
            schema_ids=distinct_ids(decoded.schema_ids),
            ledger=ledger_changes(verdicts.events, raw, decoded, checked, self.profile, self.topic.epoch),
            state=self.tracker.dump(),
        )

    def _stamps(self, raw: RawBatch, at: Int64s, schema_ids: Int64s, now: datetime) -> dict[str, pa.Array]:
        count = len(at)
        # without headers every message is live, and a column of one value costs nothing
        origin = Codes(np.zeros(len(raw), dtype=np.int32), list(ORIGINS) if raw.headers else [ORIGINS[0]])
        for row, headers in raw.headers.items():
            named = dict(headers).get(ORIGIN_HEADER)
            text = named.decode(errors="replace") if named else ORIGINS[0]
            origin.indices[row] = ORIGINS.index(text) if text in ORIGINS else 0
        micros = pa.timestamp("us", tz="UTC")
        return {
            "kafka_timestamp": pa.array(raw.timestamp_ms[at] * 1000, pa.int64()).view(micros),
            "ingest_timestamp": pa.array(np.full(count, int(now.timestamp() * 1_000_000))).view(micros),
            "origin": origin.take(at).arrow(),
            "topic_epoch": pa.array(np.full(count, self.topic.epoch, dtype=np.int32)),
            "kafka_partition": pa.array(raw.partition[at]),
            "kafka_offset": pa.array(raw.offset[at]),
            "schema_id": pa.array(schema_ids[at].astype(np.int32)),
            "rules_version": pa.array(np.full(count, self.rules_version, dtype=np.int32)),
        }

    def _ranges(
        self,
        raw: RawBatch,
        decoded: DecodedBatch,
        landed: npt.NDArray[np.bool_],
        refused: npt.NDArray[np.bool_],
        starts: Mapping[int, int],
    ) -> list[Range]:
        digests = _row_digests(raw, decoded, landed)
        at = np.flatnonzero(refused)
        quarantine = row_digests([raw.partition[at].astype(np.int64), raw.offset[at]])
        out = []
        for partition, end in sorted(raw.positions.items()):
            start = starts[partition]
            if end == start:
                continue
            mine = raw.partition == partition
            refused_here = mine[at]
            landed_here = mine & landed
            out.append(
                Range(
                    topic=raw.topic,
                    topic_id=self.topic.topic_id,
                    topic_epoch=self.topic.epoch,
                    partition=partition,
                    start=start,
                    end=end,
                    consumed=int(mine.sum()),
                    rows=int(landed_here.sum()),
                    quarantined=int(refused_here.sum()),
                    digest=total(digests[landed_here]),
                    quarantine_digest=total(quarantine[refused_here]),
                )
            )
        return out


def _row_digests(raw: RawBatch, decoded: DecodedBatch, landed: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Per raw message; zeros where nothing was decoded. Where nothing lands there is nothing to compute."""
    digests = np.zeros(len(raw), dtype=np.uint64)
    if landed.any():
        columns = (
            raw.partition[decoded.rows].astype(np.int64),
            raw.offset[decoded.rows],
            _int64(decoded.wire.column("exchange_timestamp")),
            _int64(decoded.wire.column("sequence"), -1),
            _int64(decoded.wire.column("publisher_sequence"), -1),
        )
        digests[decoded.rows] = row_digests(columns)
    return digests


_CODED = ("stream", "kind", "session", "symbol", "publisher_session")


def _counts(
    raw: RawBatch,
    landed_at: Int64s,
    refusals: list[Refusal],
    held: Mapping[int, str],
    verdicts: Verdicts,
    rows: Input,
    checked: Validated,
) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    for reason in [*(one.reason for one in refusals), *held.values()]:
        reasons[reason] = reasons.get(reason, 0) + 1
    good = rows.flag == kernel.GOOD
    return {
        "consumed": len(raw),
        "rows": len(landed_at),
        "quarantined": len(refusals) + len(held),
        "duplicates": reasons.get("duplicate", 0),
        "late": int((good & (verdicts.verdict == kernel.LATE)).sum()),
        "reasons": reasons,
        "rules": dict(checked.broken_rules),
        "newest_kafka_timestamp_ms": int(raw.timestamp_ms.max(initial=0)),
    }


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


def _scatter(values: Int64s, at: Int64s, count: int) -> Int64s:
    if len(at) == count:
        return values
    out = np.zeros(count, dtype=np.int64)
    out[at] = values
    return out


def _int64(array: pa.Array, missing: int = 0) -> Int64s:
    whole = array.view(pa.int64()) if pa.types.is_timestamp(array.type) else array
    filled = whole.fill_null(missing) if whole.null_count else whole
    out: Int64s = filled.to_numpy(zero_copy_only=False)
    return out
