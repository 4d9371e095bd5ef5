"""Validation of a decoded batch: the declared rules (by Pandera) and the few that need profile or position.

Every rule is about one row, never about a batch, so any split of a topic gives the same verdicts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import date
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from pandera.errors import SchemaErrors

from k2_dagster.ingest.columns import Codes, coded_texts, combine, encode
from k2_dagster.ingest.fixed import fixed
from k2_dagster.ingest.ranges import Numbers, whole
from k2_dagster.ingest.refusal import Refusal
from k2_dagster.schemas.declaration import Dataset, Field, FieldType, Rule
from k2_dagster.schemas.profiles import Domain, ExchangeProfile
from k2_dagster.schemas.validation import (
    LEVEL_RULES,
    describe,
    level_schema,
    number_rules,
    number_schema,
    text_rules,
    text_schema,
)

Int64s = npt.NDArray[np.int64]

# Texts of one field that are remembered as valid, and not asked about again; symbols of an exchange are a few thousand.
MAX_VALID_TEXTS = 100_000
# What Pandera says of the ends of a dataset's rules never changes: to ask costs 10 ms, and every start of a stream
# and of a test's batch would ask again. There are six datasets.
DATASETS_KEPT = 16
MICROS_PER_DAY = 86_400_000_000
MS_PER_DAY = 86_400_000
# Days that the tables keep; Dagster's partitions are the same. A day after the record's own is tomorrow: not yet.
FIRST_DAY = date(2010, 1, 1)
FIRST_DAY_NUMBER = (FIRST_DAY - date(1970, 1, 1)).days


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What the profile says of one (stream, kind): whose numbers identify its rows, and how they continue.

    `by_channel`: they are numbers of a channel, whose order the feed handler judges.
    """

    domain: Domain
    by_venue: bool
    by_channel: bool


@dataclass(frozen=True, slots=True)
class Validated:
    """Refusals by place in the wire batch, rules broken by name, and the coded text columns for later stages.

    `unnumbered` are refused rows whose identity itself is in doubt: their numbers must not be believed.
    """

    refused: dict[int, Refusal]
    unnumbered: set[int]
    broken_rules: Mapping[str, int]
    codes: dict[str, Codes]
    stream_rows: Int64s
    streams: list[StreamInfo | None]
    days: Int64s


@dataclass(slots=True)
class _Findings:
    places: Int64s
    refused: dict[int, Refusal] = dataclass_field(default_factory=dict)
    unnumbered: set[int] = dataclass_field(default_factory=set)
    broken: dict[str, int] = dataclass_field(default_factory=dict)

    def refuse(self, row: int, reason: str, detail: str, *, identity: bool) -> None:
        self.refused.setdefault(row, Refusal(int(self.places[row]), reason, detail[:_DETAIL_CHARACTERS]))
        if identity:
            self.unnumbered.add(row)

    def break_rule(self, rule: Rule, rows: int) -> None:
        self.broken[rule.name] = self.broken.get(rule.name, 0) + rows


@lru_cache(DATASETS_KEPT)
def _numbers_of(dataset: Dataset) -> Numbers:
    return Numbers(number_schema(dataset), {field.name: rule for field, rule in number_rules(dataset)})


@lru_cache(1)
def _numbers_of_levels() -> Numbers:
    return Numbers(level_schema(), LEVEL_RULES)


class Validator:
    """Checks batches of one dataset and exchange."""

    def __init__(self, dataset: Dataset, exchange: str, profile: ExchangeProfile) -> None:
        self.dataset = dataset
        self.exchange = exchange
        self.profile = profile
        self._number_rules = number_rules(dataset)
        self._numbers = _numbers_of(dataset)
        self._texts = [(field, rule, text_schema(field, rule)) for field, rule in text_rules(dataset)]
        self._valid_texts: dict[str, set[str | None]] = {field.name: set() for field, _, _ in self._texts}
        self._sides = [one for one in dataset.wire_fields if one.type is FieldType.LEVELS]
        self._levels = _numbers_of_levels()
        self._text_lists = [one for one in dataset.wire_fields if one.type is FieldType.STRINGS]
        self._coded = sorted(coded_texts(dataset))
        self._required = [one for one in dataset.wire_fields if one.required]

    def check(self, wire: pa.RecordBatch, places: Int64s, record_ms: Int64s) -> Validated:
        """`places` are the rows' places in the raw batch (for the refusals), `record_ms` Kafka's record times."""
        found = _Findings(places)
        codes = {name: encode(wire.column(name)) for name in self._coded}
        self._check_required(wire, found)
        self._check_elements(wire, found)
        self._check_numbers(wire, found)
        self._check_levels(wire, found)
        self._check_texts(codes, found)
        self._check_exchange(codes["exchange"], found)
        stream_rows, streams = self._check_streams(wire, codes, found)
        times = whole(wire.column("exchange_timestamp")).fill_null(0).to_numpy()
        days, strange = days_of(fixed(times), fixed(record_ms))
        self._check_days(days, strange, found)
        return Validated(found.refused, found.unnumbered, found.broken, codes, stream_rows, streams, days)

    def _check_required(self, wire: pa.RecordBatch, found: _Findings) -> None:
        for field in self._required:
            column = wire.column(field.name)
            if not column.null_count or field.type in (FieldType.LEVELS, FieldType.STRINGS):
                continue
            for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)):
                detail = f"{field.name} was null; valid: {field.doc}"
                found.refuse(int(row), "missing_field", detail, identity=field.name in _IDENTITY)

    def _check_elements(self, wire: pa.RecordBatch, found: _Findings) -> None:
        """Lists of texts have no null among them: no table could hold it."""
        for field in self._text_lists:
            column = wire.column(field.name)
            bad = column.flatten().is_null().to_numpy(zero_copy_only=False)
            if not bad.any():
                continue
            row_of = np.repeat(np.arange(len(column)), column.value_lengths().fill_null(0).to_numpy())
            for row in np.unique(row_of[bad]).tolist():
                found.refuse(row, "missing_field", f"{field.name} has an element that is null", identity=False)

    def _check_numbers(self, wire: pa.RecordBatch, found: _Findings) -> None:
        rules = {field.name: (field, rule) for field, rule in self._number_rules}
        for column, row, value in self._numbers.failures({name: wire.column(name) for name in rules}):
            field, rule = rules[column]
            found.break_rule(rule, 1)
            detail = _violation(field, rule, value)
            found.refuse(row, "rule_violated", detail, identity=column in _IDENTITY)

    def _check_levels(self, wire: pa.RecordBatch, found: _Findings) -> None:
        for field in self._sides:
            side = wire.column(field.name)
            lengths = side.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            levels = pa.RecordBatch.from_struct_array(side.flatten())
            if not levels.num_rows:
                continue
            row_of = np.repeat(np.arange(len(lengths)), lengths)
            for name in LEVEL_RULES:
                for at in np.flatnonzero(levels.column(name).is_null().to_numpy(zero_copy_only=False)):
                    detail = f"{field.name} has a level without {name}"
                    found.refuse(int(row_of[at]), "missing_field", detail, identity=False)
            for column, place, value in self._levels.failures({name: levels.column(name) for name in LEVEL_RULES}):
                rule = LEVEL_RULES[column]
                found.break_rule(rule, 1)
                detail = f"{field.name} has a level with {column} {value}, rule {rule.name}; {describe(rule)}"
                found.refuse(int(row_of[place]), "rule_violated", detail, identity=False)

    def _check_texts(self, codes: dict[str, Codes], found: _Findings) -> None:
        for field, rule, schema in self._texts:
            column = codes[field.name]
            valid = self._valid_texts[field.name]
            if valid.issuperset(column.values):
                continue
            frame = pl.DataFrame({field.name: pl.Series(field.name, column.values, dtype=pl.String)})
            try:
                schema.validate(frame, lazy=True)
                if len(valid) < MAX_VALID_TEXTS:
                    valid.update(column.values)
            except SchemaErrors as error:
                rows = np.flatnonzero(np.isin(column.indices, error.failure_cases["index"].to_list()))
                found.break_rule(rule, len(rows))
                for row in rows:
                    detail = _violation(field, rule, column.values[column.indices[row]])
                    found.refuse(int(row), "rule_violated", detail, identity=field.name in _IDENTITY)

    def _check_exchange(self, codes: Codes, found: _Findings) -> None:
        if codes.values == [self.exchange]:
            return
        wrong = [at for at, value in enumerate(codes.values) if value != self.exchange]
        for row in np.flatnonzero(np.isin(codes.indices, wrong)):
            detail = f"exchange was {codes.values[codes.indices[row]]!r}; valid: {self.exchange}"
            found.refuse(int(row), "wrong_exchange", detail, identity=True)

    def _check_streams(
        self, wire: pa.RecordBatch, codes: dict[str, Codes], found: _Findings
    ) -> tuple[Int64s, list[StreamInfo | None]]:
        rows, combinations = combine([codes["stream"], codes["kind"]])
        streams = [self._stream(stream, kind) for stream, kind in combinations]
        unknown = [at for at, info in enumerate(streams) if info is None]
        for row in np.flatnonzero(np.isin(rows, unknown)) if unknown else ():
            detail = f"stream was {combinations[rows[row]][0]!r}; the profile of {self.exchange} declares none such"
            found.refuse(int(row), "stream_unknown", detail, identity=True)
        for at, info in enumerate(streams):
            if info is not None and info.by_venue:
                needed = ["sequence"] if info.domain is Domain.DENSE else ["sequence", "previous_sequence"]
                self._check_numbered(wire, rows == at, needed, found)
        return rows, streams

    def _check_numbered(
        self, wire: pa.RecordBatch, of_stream: npt.NDArray[np.bool_], needed: list[str], found: _Findings
    ) -> None:
        for name in needed:
            column = wire.column(name)
            if not column.null_count:
                continue
            for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False) & of_stream):
                detail = f"{name} was null; the stream's domain needs it"
                found.refuse(int(row), "missing_field", detail, identity=True)
        if len(needed) == 2:
            sequence, previous = (whole(wire.column(name)).fill_null(0).to_numpy() for name in needed)
            for row in np.flatnonzero((previous >= sequence) & of_stream):
                detail = f"previous_sequence was {previous[row]}; valid: below sequence, {sequence[row]}"
                found.refuse(int(row), "rule_violated", detail, identity=True)

    def _stream(self, stream: str | None, kind: str | None) -> StreamInfo | None:
        known = self.profile.stream(self.dataset.name, stream) if stream is not None else None
        if known is None:
            return None
        numbered = kind == self.dataset.kinds[0]
        by_channel = known.domain is Domain.CHANNEL and numbered
        return StreamInfo(known.domain, known.domain.judged_by_ingest and numbered, by_channel)

    def _check_days(self, days: Int64s, strange: npt.NDArray[np.bool_], found: _Findings) -> None:
        for row in np.flatnonzero(strange):
            day = np.datetime64(int(days[row]), "D")
            detail = f"event day was {day}; valid: {FIRST_DAY} to tomorrow"
            found.refuse(int(row), "outside_partitions", detail, identity=False)


# Fields that identity rests on: where one of these is wrong, the row's numbers are not believed.
_IDENTITY = frozenset(
    (
        *("exchange", "stream", "kind", "symbol", "session", "sequence", "previous_sequence"),
        *("publisher_session", "publisher_sequence"),
    )
)


def _violation(field: Field, rule: Rule, value: object) -> str:
    return f"{field.name} was {value!r}, rule {rule.name}; {describe(rule)}"


# A detail is for a person; a hostile value may be long.
_DETAIL_CHARACTERS = 300


@numba.njit(cache=True, nogil=True)
def days_of(micros, record_ms):  # type: ignore[no-untyped-def]
    """The UTC day of each row's event, and which of them no table keeps."""
    days = np.empty(len(micros), dtype=np.int64)
    strange = np.empty(len(micros), dtype=np.bool_)
    for row in range(len(micros)):
        day = micros[row] // MICROS_PER_DAY
        days[row] = day
        strange[row] = day < FIRST_DAY_NUMBER or day > record_ms[row] // MS_PER_DAY + 1
    return days, strange
