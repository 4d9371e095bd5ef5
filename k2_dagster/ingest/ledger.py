"""What the judge saw of a batch as changes of the ledger: gaps with their level (DESIGN D18), sessions, ends."""

from base64 import b64encode
from dataclasses import dataclass

import numpy as np

from k2_dagster.ingest import kernel
from k2_dagster.ingest.decode import DecodedBatch
from k2_dagster.ingest.numbering import Event
from k2_dagster.ingest.outcome import int64_values
from k2_dagster.ingest.rules import MICROS_PER_DAY, Validated
from k2_dagster.ingest.sessions import Reset
from k2_dagster.ingest.tracker import Verdicts
from k2_dagster.kafka.batch import RawBatch
from k2_dagster.schemas.profiles import Domain, ExchangeProfile
from k2_dagster.state.feed_events import SessionBegan
from k2_dagster.state.frames import unframed
from k2_dagster.state.gaps import LedgerChange
from k2_dagster.state.intervals import Cover
from k2_dagster.state.ledger import Change
from k2_dagster.state.tracked import VENUE


def gap_level(missing: int, profile: ExchangeProfile) -> str:
    """`warn` below `gap_page_at`, `page` up to `gap_halt_above`, `halt` beyond."""
    if missing < profile.gap_page_at:
        return "warn"
    return "page" if missing <= profile.gap_halt_above else "halt"


@dataclass(frozen=True, slots=True)
class Told:
    """A batch as the ledger sees it: positions, and when each message happened at the venue."""

    raw: RawBatch
    decoded: DecodedBatch
    checked: Validated
    profile: ExchangeProfile
    topic_epoch: int

    def micros(self, row: int) -> int:
        """UTC microseconds. A refused message may say anything: Kafka's time is taken instead."""
        place = int(np.searchsorted(self.decoded.rows, row))
        is_decoded = place < len(self.decoded.rows) and self.decoded.rows[place] == row
        if not is_decoded or place in self.checked.refused:
            return int(self.raw.timestamp_ms[row]) * 1_000
        return int(int64_values(self.decoded.wire.column("exchange_timestamp").slice(place, 1))[0])

    def day(self, row: int) -> str:
        """The UTC event day, YYYY-MM-DD."""
        return str(np.datetime64(self.micros(row) // MICROS_PER_DAY, "D"))


def ledger_changes(told: Told, verdicts: Verdicts, others: list[tuple[int, Change]]) -> list[Change]:
    """One change per event and per session, and the `others` (with their rows), in row order; then what is over. A gap
    belongs to the event day of the message that showed it."""
    out = [(event.row, _gap(numbering, event, told)) for numbering, found in verdicts.events.items() for event in found]
    began = [(one.row, _began(numbering, one, told)) for numbering, found in verdicts.resets.items() for one in found]
    changes: list[tuple[int, Change]] = [*out, *began, *others]
    over = [_cover(numbering, frame) for numbering, frame in verdicts.forgotten.items()]
    return [*(change for _, change in sorted(changes, key=lambda pair: pair[0])), *over]


def _gap(numbering: str, event: Event, told: Told) -> LedgerChange:
    partition, *parts = event.key
    stream, kind, session, symbol = parts if numbering == VENUE else ("", "", *parts)
    span = event.last - event.first + 1
    found = told.profile.streams.get(stream)
    # numbers of a linked stream jump, so of a missing span only "at least one message" is known
    missing = 1 if found is not None and found.domain is Domain.LINKED else span
    reported = event.kind == kernel.REPORT
    return LedgerChange(
        change="report" if reported else "settle",
        numbering=numbering,
        stream=stream,
        kind=kind,
        session=session or "",
        symbol=symbol or "",
        first_sequence=event.first if reported else event.origin,
        last_sequence=event.last,
        missing=missing,
        filled=span if event.kind in (kernel.FILL, kernel.FILL_EXPLAINED) else 0,
        quarantined={kernel.EXPLAIN: span, kernel.FILL_EXPLAINED: -span}.get(event.kind, 0),
        level=gap_level(missing, told.profile),
        cause="unknown",
        topic_epoch=told.topic_epoch,
        kafka_partition=partition,
        opened_offset=event.opened_offset,
        reported_offset=int(told.raw.offset[event.row]),
        event_day=told.day(event.row),
        before_micros=_known(event.before_micros),
        after_micros=_known(event.after_micros),
        seen_ms=int(told.raw.timestamp_ms[event.row]),
    )


def _known(micros: int) -> int | None:
    return None if micros == kernel.NEVER else micros


def _began(numbering: str, reset: Reset, told: Told) -> SessionBegan:
    return SessionBegan(
        numbering=numbering,
        stream=reset.stream,
        channel="",
        session=reset.session,
        previous_session=reset.previous_session,
        first_sequence=None,
        topic_epoch=told.topic_epoch,
        kafka_partition=reset.partition,
        kafka_offset=int(told.raw.offset[reset.row]),
        at_micros=told.micros(reset.row),
    )


def _cover(numbering: str, frame: bytes) -> Cover:
    keys = dict(unframed(frame))["keys"]
    return Cover(
        numbering=numbering,
        intervals=keys.num_rows,
        from_micros=int(keys["first_micros"].to_numpy().min()),
        to_micros=int(keys["last_micros"].to_numpy().max()),
        frame=b64encode(frame).decode(),
    )
