"""Events of the numberings as changes of the gap ledger, with their level (DESIGN D18)."""

from collections.abc import Mapping

import numpy as np

from k2_dagster.ingest import kernel
from k2_dagster.ingest.decode import DecodedBatch
from k2_dagster.ingest.numbering import Event
from k2_dagster.ingest.rules import MS_PER_DAY, Validated
from k2_dagster.ingest.tracker import VENUE
from k2_dagster.kafka.batch import RawBatch
from k2_dagster.schemas.profiles import Domain, ExchangeProfile
from k2_dagster.state.gaps import LedgerChange


def gap_level(missing: int, profile: ExchangeProfile) -> str:
    """`warn` below `gap_page_at`, `page` up to `gap_halt_above`, `halt` beyond."""
    if missing < profile.gap_page_at:
        return "warn"
    return "page" if missing <= profile.gap_halt_above else "halt"


def ledger_changes(
    events: Mapping[str, list[Event]],
    raw: RawBatch,
    decoded: DecodedBatch,
    checked: Validated,
    profile: ExchangeProfile,
    topic_epoch: int,
) -> list[LedgerChange]:
    """One change per event, in row order. A gap belongs to the event day of the message that showed it."""
    out: list[tuple[int, LedgerChange]] = []
    for numbering, happened in events.items():
        for event in happened:
            place = int(np.searchsorted(decoded.rows, event.row))
            is_decoded = place < len(decoded.rows) and decoded.rows[place] == event.row
            # the day of a refused message may be anything
            has_day = is_decoded and place not in checked.refused
            day = checked.days[place] if has_day else raw.timestamp_ms[event.row] // MS_PER_DAY
            change = _change(numbering, event, profile, topic_epoch, int(raw.offset[event.row]), int(day))
            out.append((event.row, change))
    return [change for _, change in sorted(out, key=lambda pair: pair[0])]


def _change(
    numbering: str, event: Event, profile: ExchangeProfile, topic_epoch: int, offset: int, day: int
) -> LedgerChange:
    partition, *parts = event.key
    stream, kind, session, symbol = parts if numbering == VENUE else ("", "", *parts)
    span = event.last - event.first + 1
    found = profile.streams.get(stream)
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
        level=gap_level(missing, profile),
        cause="unknown",
        topic_epoch=topic_epoch,
        kafka_partition=partition,
        opened_offset=event.opened_offset,
        reported_offset=offset,
        event_day=str(np.datetime64(day, "D")),
    )
